"""Merge checkpoints into one of the same kind; what is written is complete or not there."""

import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from recipes.common.errors import UserError, nearest
from recipes.common.files import atomic_directory, check_space
from recipes.merging.parents import MAY_DIFFER, Parent, check_alike, describe, open_parent
from recipes.merging.weighted_sum import METHODS, Merge
from recipes.runs.merge_manifest import MergeManifest

_TOLERANCE = 1e-6


def merge(
    method: str,
    paths: Sequence[Path],
    weights: Sequence[float],
    output: Path,
    *,
    base: Path | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Write the merge of two or more checkpoints of one kind, a few rows of a tensor in memory at a
    time.

    Args:
        method: ``linear``, ``slerp`` or ``task``; ``recipes.merging.weighted_sum`` has their
            formulas.
        paths: Hugging Face folders, or NeMo 2 checkpoints and finished stages' folders. The first
            gives the output its config, tokenizer and layout.
        weights: one for each of ``paths``. They sum to one, but for ``task``: mergekit's
            task_arithmetic does not normalize its weights either, so any finite ones do. For
            ``slerp`` ``1 - t, t`` with t in [0, 1].
        output: new folder of the parents' kind, with ``merge_manifest.json``. A NeMo checkpoint has
            no optimizer state, so that training starts from its weights alone.
        base: for ``task``, the checkpoint that the others were trained from.
        say: called with a line of progress.

    Raises:
        UserError: method, parents or weights that do not fit each other, a damaged parent, an
            output that exists, or no space left.
    """
    check_weights(method, len(paths), weights, base)
    with atomic_directory(output) as temporary:
        write_merge(method, paths, weights, temporary, base=base, say=say)


def check_weights(method: str, parents: int, weights: Sequence[float], base: Path | None) -> None:
    """Check what can be without the parents.

    Raises:
        UserError: an unknown method, or numbers of parents and weights, weights or a base that do
            not fit it.
    """
    if method not in METHODS:
        raise UserError(
            f"--method {method}: not one of {', '.join(METHODS)}{nearest(method, METHODS)}"
        )
    if parents < 2:
        raise UserError(f"--parents: {parents} given, but a merge needs at least two")
    if method == "slerp" and parents != 2:
        raise UserError(
            f"--parents: {parents} given, but slerp merges exactly two; use linear, or merge in "
            "steps"
        )
    if len(weights) != parents:
        raise UserError(
            f"--weights: {len(weights)} given for {parents} parents; give each parent one"
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise UserError(
            f"--weights: {_words(weights)} has a weight that is not finite; give plain numbers"
        )
    if method == "task" and base is None:
        raise UserError(
            "--base: missing, but task adds what the parents have learned to a base; name their "
            "ancestor"
        )
    if method != "task" and base is not None:
        raise UserError(f"--base: {method} has no base; leave it out or use --method task")
    if method != "task" and abs(sum(weights) - 1) > _TOLERANCE:
        raise UserError(
            f"--weights: {_words(weights)} sum to {sum(weights):.7g}, but {method} needs a sum of 1"
        )
    if method == "slerp" and not 0 <= weights[1] <= 1:
        raise UserError(
            f"--weights: {_words(weights)} leads beyond the parents; slerp needs `1-t t` with t in "
            "[0, 1]"
        )


def write_merge(
    method: str,
    paths: Sequence[Path],
    weights: Sequence[float],
    folder: Path,
    *,
    base: Path | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Write the merge into ``folder``, which exists and is removed by the caller if this fails; see
    :func:`merge`.
    """
    every = [*paths, *([base] if base else [])]
    opened = [open_parent(path) for path in every]
    check_alike(every, opened)
    first, parents = opened[0], opened[: len(paths)]
    for field in MAY_DIFFER:
        values = [parent.config[field] for parent in opened]
        if len(set(values)) > 1:
            say(
                f"{field} is {' and '.join(map(str, values))}; the merge gets {values[0]}, as its "
                "first parent has"
            )
    check_space(
        folder, sum(weight.elements * first.dtype(weight).itemsize for weight in first.weights)
    )
    sources: list[Parent] = list(parents)
    factors = list(weights)
    if base:
        sources, factors = [opened[-1], *parents], [1 - math.fsum(weights), *weights]
    dtypes = {str(first.dtype(weight)).removeprefix("torch.") for weight in first.weights}
    manifest = MergeManifest(
        method=method,
        weights=list(weights),
        parents=[describe(path, parent) for path, parent in zip(paths, parents, strict=True)],
        base=describe(base, opened[-1]) if base else None,
        tensors=len(first.weights),
        dtypes=sorted(dtypes),
        libraries={name: version(name) for name in ("torch", "safetensors")},
        **first.lost,
    )
    with Merge(method, sources, factors) as merged:
        first.write(merged, folder, say)
    manifest.write(folder)


def _words(weights: Sequence[float]) -> str:
    return " ".join(map(str, weights))
