"""The chain as tasks with dependencies: each is a ``granite41`` command that can also be run by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from evaluation import suites
from evaluation.gates import GATE
from evaluation.results import EVALUATION, evaluation_name
from recipes.common.errors import UserError
from recipes.registry.checks import require_processes
from recipes.registry.resolve import STAGES, require_known, resolve_pretraining, stage_sizes
from recipes.runs.data_folder import MANIFEST as DATA_MANIFEST
from recipes.runs.stage_folder import MERGED, check_recipe
from recipes.runs.stage_manifest import read_manifest
from recipes.runs.task import Task
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.sizes import SIZES
from recipes.spec.tree import flatten

_CORPORA = "corpora"
_LONG = suites.LONG_CONTEXT


def select_stages(stages: str, size: str, first: str | None = None) -> list[str]:
    """Return the stages that ``A`` or ``A..B`` names, in the order of the run, as far as ``size`` has them.

    Args:
        first: leave out those before it.

    Raises:
        UserError: an unknown stage or size, a stage that the size does not go through, a range from a later to an
            earlier one, or a ``first`` that is not among them.
    """
    require_known("size", size, SIZES)
    begin, dots, end = stages.partition("..")
    for name in (begin, end) if dots else (begin,):
        require_known("stage", name, STAGES)
        if size not in stage_sizes(name):
            raise UserError(
                f"{name}: {size} does not go through it, only {', '.join(stage_sizes(name))}; leave it out"
            )
    chain = [name for name in STAGES if size in stage_sizes(name)]
    if chain.index(begin) > chain.index(end or begin):
        raise UserError(f"{stages}: {begin} comes after {end}; name the earlier stage first")
    chain = chain[chain.index(begin) : chain.index(end or begin) + 1]
    if first is None:
        return chain
    require_known("stage", first, STAGES)
    if first not in chain:
        raise UserError(
            f"--from {first}: not one of the stages {', '.join(chain)}; name one of them"
        )
    return chain[chain.index(first) :]


def tasks(
    names: Sequence[str],
    size: str,
    run_folder: Path,
    data: Path | None,
    devices: int | None,
    overrides: Sequence[str],
    init: str | None = None,
    evaluate: bool = True,
    on_cluster: bool = False,
    state: Path | None = None,
) -> list[Task]:
    """Return the tasks of a chain: data (tiny only); training, merge, export and evaluation of each stage; a report.

    A stage begins when the gate of the one before has passed. What the run's folder holds already has no task.

    Args:
        names: the stages, as :func:`select_stages` returns them.
        size: model size.
        data: a folder of prepared data; for tiny the chain prepares one when None.
        devices: processes to train with, a GPU each; when None as many as hold the model once, or on a cluster as many
            as the recipe has.
        overrides: for every stage of the chain that has their key.
        init: what the first stage begins with in place of its parent: a NeMo checkpoint, a finished stage's folder, or
            ``hf:NAME`` or ``hf:FOLDER``, which is imported first.
        evaluate: whether each stage is evaluated, and held against a gate.
        on_cluster: whether the chain runs on more than this machine.
        state: the run's folder as seen from here, where ``run_folder`` is on a cluster.

    Raises:
        UserError: an unknown override; a stage of another kind; a size that does not prepare its own data, and
            none given; a stage that finished with another recipe; a number of processes that a stage cannot use.
    """
    state = state or run_folder
    own = overrides_by_stage(names, size, overrides)
    recipes = {name: resolve_pretraining(name, size, own[name]) for name in names}
    manifests = {name: read_manifest(state / name) for name in names}
    finished = {name for name, manifest in manifests.items() if manifest and manifest.is_finished}
    unfinished = [name for name in names if name not in finished]
    chain: list[Task] = []

    def add(name: str, *words: str, after: Sequence[str | None], **more: Any) -> str:
        chain.append(Task(name, words, tuple(filter(None, after)), **more))
        return name

    prepared = begin = None
    if data is None:
        if not SIZES[size].is_tiny:
            raise UserError(f"size {size} needs prepared data: name its folder with --data")
        data, vocab_size = run_folder / "data", recipes[names[0]].model.vocab_size.value
        if unfinished:
            prepared = add(
                "data",
                "data",
                "tiny",
                "--output",
                str(data),
                f"--vocab-size={vocab_size}",
                after=(),
            )
    if init and init.startswith("hf:"):
        imported = run_folder / "init"
        if not (state / "init").exists():
            begin = add(
                "init",
                "import",
                "--hf",
                init.removeprefix("hf:"),
                "--output",
                str(imported),
                after=(),
            )
        init = str(imported)
    # evaluations are one after the other, as they share the machine's GPUs
    evaluated = (
        _ruler_tasks(add, names, size, run_folder, state, data, prepared) if evaluate else None
    )
    ready, ends = begin, []
    for name, recipe in recipes.items():
        folder, found = run_folder / name, state / name
        source = ("--init", init) if init and name == names[0] else ()
        if name in unfinished:
            words = (
                "train",
                name,
                "--size",
                size,
                "--run-dir",
                str(run_folder),
                "--data",
                str(data),
                *source,
            )
            gpus = (
                recipe.parallelism.gpus.value if on_cluster else recipe.parallelism.gpus_per_replica
            )
            processes = devices or gpus
            require_processes(recipe, processes)
            ready = add(
                name,
                *(*words, *own[name]),
                after=(prepared, ready),
                processes=processes,
                needs_gpu=True,
                stage_folder=folder,
            )
        else:
            check_recipe(found, recipe)
            ready = None
        trained = ready
        if recipe.merge and not (found / MERGED).exists():
            manifest = manifests[name]
            if manifest:
                start = manifest.initial_state.checkpoint
            else:
                start = source[1] if source else str(run_folder / str(recipe.parent))
            weight = recipe.merge.weight.value
            ready = add(
                f"{name}-merge",
                *(
                    "merge",
                    "--method",
                    recipe.merge.method.value,
                    "--parents",
                    str(folder),
                    str(start),
                ),
                *(
                    "--weights",
                    f"{weight:.6g}",
                    f"{1 - weight:.6g}",
                    "--output",
                    str(folder / MERGED),
                ),
                after=(ready,),
            )
        exported = None
        if not (found / "hf").exists():
            words = ("export", "--checkpoint", str(folder), "--output", str(folder / "hf"))
            exported = add(f"{name}-export", *words, after=(ready,))
            ends.append(exported)
        if evaluate:
            gate = _evaluation_tasks(
                add,
                recipe,
                size,
                run_folder,
                state,
                trained,
                exported,
                evaluated,
                not source,
                on_cluster,
            )
            if gate:
                ends.append(gate)
                ready = evaluated = gate
    report = add("report", "report", "--run-dir", str(run_folder), after=ends or [ready])
    add("generate", "generate", str(run_folder / names[-1] / "hf"), after=(report,), needs_gpu=True)
    return chain


def require_inputs(chain: Sequence[Task], data: Path | None, init: str | None) -> None:
    """Check, before anything is started, that what a chain is to train with is there.

    Raises:
        UserError: no prepared data, or nothing that a stage can begin with.
    """
    trains = [task.arguments for task in chain if task.stage_folder]
    if trains and data and not (data / DATA_MANIFEST).exists():
        raise UserError(
            f"--data {data}: holds no {DATA_MANIFEST}, as prepared data does; `granite41 data` prepares it"
        )
    given = Path(init) if init and not init.startswith("hf:") else None
    begins = given and any("--init" in arguments for arguments in trains)
    if given and begins and not (given / "weights").is_dir() and not read_manifest(given):
        raise UserError(
            f"--init {init}: neither a NeMo checkpoint nor a finished stage is there; name one, or a Hugging Face "
            f"folder as hf:FOLDER"
        )


class _Add(Protocol):
    def __call__(
        self, name: str, *words: str, after: Sequence[str | None], needs_gpu: bool = False
    ) -> str: ...


def _ruler_tasks(
    add: _Add,
    names: Sequence[str],
    size: str,
    run_folder: Path,
    state: Path,
    data: Path,
    prepared: str | None,
) -> str | None:
    """Add the task that generates RULER's samples for all stages, before any GPU is taken; return its name."""
    recipes = [
        resolve_pretraining(name, size)
        for name in names
        if _LONG in suites.stage_suites(name, size)
        and not _is_evaluated(state / name / "eval" / _LONG)
    ]
    if not recipes:
        return None
    lengths = sorted(
        {
            length
            for recipe in recipes
            for length in suites.lengths(size, recipe.sequence_length.value)
        }
    )
    fetched, words = None, _corpora(size, run_folder)
    if words and not (state / _CORPORA).exists():
        fetched = add("corpora", "eval", "corpora", "--output", words[1], after=())
    return add(
        "ruler",
        *(
            "eval",
            "generate",
            "--tokenizer",
            str(data / "tokenizer"),
            "--lengths",
            *map(str, lengths),
        ),
        *(
            "--samples",
            str(suites.samples(_LONG, size)),
            "--output",
            str(run_folder / "ruler"),
            *words,
        ),
        after=(prepared, fetched),
    )


def _evaluation_tasks(
    add: _Add,
    recipe: PretrainRecipe,
    size: str,
    run_folder: Path,
    state: Path,
    trained: str | None,
    exported: str | None,
    before: str | None,
    with_parent: bool,
    on_cluster: bool,
) -> str | None:
    """Add the evaluations of a stage, before and after its merge, and its gate; return the gate.

    On one machine they are one after the other, on a cluster side by side.

    Args:
        trained: the task that trains the stage, like the next two None when there is none.
        exported: the one that exports it.
        before: the one that the first evaluation waits for.
        with_parent: whether the stage begins with its parent in this run, whose short-context scores it must keep.
    """
    name, folder = recipe.stage, run_folder / recipe.stage / "eval"
    found = state / name / "eval"
    chosen = suites.stage_suites(name, size)
    ends: list[str] = []
    for label in ("unmerged", "") if recipe.merge else ("",):
        for suite in chosen:
            if _is_evaluated(found / evaluation_name(suite, label)):
                continue
            job = f"{name}-{evaluation_name(suite, label)}"
            words = (
                *("eval", suite, "--model", name, "--size", size, "--run-dir", str(run_folder)),
                *(("--unmerged",) if label else ()),
                *(_corpora(size, run_folder) if suite == _LONG else ()),
            )
            # the first of those before the merge exports what the next ones read, too
            wait = ends[-1] if ends and (label or not on_cluster) else before
            waits: tuple[str | None, ...] = (trained if label else exported, wait)
            parts = suites.lengths(size, recipe.sequence_length.value) if suite == _LONG else ()
            if on_cluster and not label and len(parts) > 1:
                # a job for each length, and one that gathers what they have scored
                waits = tuple(
                    add(
                        f"{job}-{length}",
                        *words,
                        "--lengths",
                        str(length),
                        after=waits,
                        needs_gpu=True,
                    )
                    for length in parts
                )
                ends.append(add(job, *words, after=waits))
            else:
                ends.append(add(job, *words, after=waits, needs_gpu=True))
    if not ends and all(_has_passed(found / suite) for suite in chosen):
        return None
    last_stage = [
        stage
        for stage in STAGES
        if STAGES[stage].kind == "long_context" and size in stage_sizes(stage)
    ][-1]
    baseline = run_folder / str(recipe.parent) / "eval" / chosen[-1]
    return add(
        f"{name}-gate",
        *("eval", "gate", "--folders", *(str(folder / suite) for suite in chosen)),
        # IBM's numbers are of the models at the end
        *("--reference", "published" if name == last_stage and not SIZES[size].is_tiny else "none"),
        *(("--baseline", str(baseline)) if recipe.merge and with_parent else ()),
        # without a network there are no other texts; what they score is compared with nothing
        *(("--allow-fallback",) if SIZES[size].is_tiny else ()),
        after=(*(ends if on_cluster else ends[-1:]), exported) if ends else (before, exported),
    )


def _corpora(size: str, run_folder: Path) -> tuple[str, ...]:
    return () if SIZES[size].is_tiny else ("--corpora", str(run_folder / _CORPORA))


def _is_evaluated(folder: Path) -> bool:
    found = _json(folder / EVALUATION)
    return bool(found) and len(found["units"]) == len(found["expected"])


def _has_passed(folder: Path) -> bool:
    return bool(_json(folder / GATE).get("passed"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def overrides_by_stage(
    names: Sequence[str], size: str, overrides: Sequence[str]
) -> dict[str, list[str]]:
    keys = {override: override.partition("=")[0] for override in overrides}
    known = {name: flatten(resolve_pretraining(name, size)) for name in names}
    # what no stage knows is refused by the first
    everywhere = [
        override
        for override, key in keys.items()
        if not any(key in leaves for leaves in known.values())
    ]
    return {
        name: everywhere + [text for text, key in keys.items() if key in known[name]]
        for name in names
    }
