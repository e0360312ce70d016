"""Merge checkpoints into one of the same kind; what is written is complete or absent."""

import logging
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from recipes.common.errors import UserError, nearest
from recipes.common.files import atomic_directory, check_space
from recipes.merging.parents import MAY_DIFFER, Parent, check_alike, describe, open_parent
from recipes.merging.weighted_sum import METHODS, Merge
from recipes.runs.merge_manifest import MergeManifest

log = logging.getLogger(__name__)

_TOLERANCE = 1e-6


def merge(
    method: str,
    paths: Sequence[Path],
    weights: Sequence[float],
    output: Path,
    *,
    base: Path | None = None,
) -> None:
    """Write the merge of checkpoints of one kind, with a few rows of a tensor in memory at a time.

    Args:
        method: ``linear``, ``slerp`` or ``task``; ``recipes.merging.weighted_sum`` has their
            formulas.
        paths: two or more Hugging Face folders, or NeMo 2 checkpoints and finished stages' folders.
            The first gives the output its config, tokenizer and layout.
        weights: one for each of ``paths``. They sum to one, but for ``task``: mergekit's
            task_arithmetic does not normalize its weights either, so any finite ones do. For
            ``slerp`` ``1 - t, t`` with t in [0, 1].
        output: new folder of the parents' kind, with ``merge_manifest.json``. A NeMo checkpoint has
            no optimizer state, so that training starts from its weights alone.
        base: for ``task``, the checkpoint that the others were trained from.

    Raises:
        UserError: method, parents or weights that do not fit each other, a damaged parent, an
            output that exists, or no space left.
    """
    check_weights(method, len(paths), weights, base)
    with atomic_directory(output) as temporary:
        write_merge(method, paths, weights, temporary, base=base)


def check_weights(
    method: str,
    parents: int,
    weights: Sequence[float],
    base: Path | None,
) -> None:
    """Check method, weights and base, which needs no parent.

    Raises:
        UserError: an unknown method, or numbers of parents and weights, weights or a base that do
            not fit it.
    """
    problem = (
        _method_problem(method, parents, base)
        or _count_problem(parents, weights)
        or _sum_problem(method, weights)
    )
    if problem:
        raise UserError(problem)


def _method_problem(
    method: str,
    parents: int,
    base: Path | None,
) -> str | None:
    """Return what the method lacks, as a sentence."""
    if method not in METHODS:
        return f"--method {method}: not one of {', '.join(METHODS)}{nearest(method, METHODS)}"
    if method == "slerp" and parents > 2:
        return (
            f"--parents: {parents} given, but slerp merges exactly two; use linear, or merge in "
            f"steps"
        )
    if method == "task" and base is None:
        return (
            "--base: missing, but task adds what the parents have learned to a base; name their "
            "ancestor"
        )
    if method != "task" and base is not None:
        return f"--base: {method} has no base; leave it out or use --method task"
    return None


def _count_problem(
    parents: int,
    weights: Sequence[float],
) -> str | None:
    """Return what the numbers of parents and weights lack, as a sentence."""
    if parents < 2:
        return f"--parents: {parents} given, but a merge needs at least two"
    if len(weights) != parents:
        return f"--weights: {len(weights)} given for {parents} parents; give each parent one"
    return None


def _sum_problem(
    method: str,
    weights: Sequence[float],
) -> str | None:
    """Return what is wrong with the weights' values, as a sentence."""
    text = " ".join(map(str, weights))
    # a NaN compares as equal to nothing, so that it would pass the sum
    if not all(math.isfinite(weight) for weight in weights):
        return f"--weights: {text} has a weight that is not finite; give plain numbers"
    total = sum(weights)
    if method != "task" and abs(total - 1) > _TOLERANCE:
        return f"--weights: {text} sum to {total:.7g}, but {method} needs a sum of 1"
    if method == "slerp" and not 0 <= weights[1] <= 1:
        return f"--weights: {text} leads beyond the parents; slerp needs `1-t t` with t in [0, 1]"
    return None


def write_merge(
    method: str,
    paths: Sequence[Path],
    weights: Sequence[float],
    folder: Path,
    *,
    base: Path | None = None,
) -> None:
    """Write the merge into an existing folder, which the caller removes if this fails.

    Arguments and errors are those of :func:`merge`.
    """
    # the base, where the method has one, comes last until the merge itself
    paths = list(paths)
    if base:
        paths.append(base)
    sources = [open_parent(path) for path in paths]
    # all mistakes come before the first byte is written
    check_alike(paths, sources)
    _log_differences(sources)

    first = sources[0]
    dtypes = set()
    size = 0
    for weight in first.weights:
        dtype = first.dtype(weight)
        dtypes.add(str(dtype).removeprefix("torch."))
        size += weight.elements * dtype.itemsize
    check_space(folder, size)

    described = list(map(describe, paths, sources))
    described_base = described.pop() if base else None
    manifest = MergeManifest(
        method=method,
        weights=list(weights),
        parents=described,
        base=described_base,
        tensors=len(first.weights),
        dtypes=sorted(dtypes),
        libraries={name: version(name) for name in ("torch", "safetensors")},
        optimizer_state=first.optimizer_state,
    )

    # task: base + the sum of w_i (x_i - base), as one weighted sum in which the base comes first
    factors = list(weights)
    if base:
        sources.insert(0, sources.pop())
        factors.insert(0, 1 - math.fsum(weights))
    # a few rows of a tensor at a time; the first parent gives layout, config and tokenizer
    with Merge(method, sources, factors) as merged:
        first.write(merged, folder)
    manifest.write(folder)


def _log_differences(parents: Sequence[Parent]) -> None:
    """Say which values of the configs differ, and which the merge gets."""
    for field in MAY_DIFFER:
        values = [getattr(parent.config, field) for parent in parents]
        # theta and length may differ between stages
        if len(set(values)) == 1:
            continue
        log.warning(
            "%s is %s; the merge gets %s, as its first parent has",
            field,
            " and ".join(map(str, values)),
            values[0],
        )
