"""The chain as tasks with dependencies: each is a ``granite41`` command that can also be run by hand."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.spec import SIZES, STAGES, UserError, flatten, resolve_pretraining, sizes_of
from recipes.spec.resolve import require_known
from recipes.training.stage_folder import MERGED, check_recipe, read_manifest


@dataclass(frozen=True)
class Task:
    """One command of the chain: ``arguments`` follow ``granite41``, ``processes`` of it are started by torchrun.

    It starts when the tasks that ``after`` names have succeeded.
    """

    name: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()
    processes: int = 1

    def __str__(self) -> str:
        processes = f"torchrun --nproc-per-node {self.processes} -m recipes.cli" if self.processes > 1 else "granite41"
        after = f" (after {', '.join(self.after)})" if self.after else ""
        return f"{self.name}{after}: {processes} {shlex.join(self.arguments)}"


def stages_of(stages: str, size: str, first: str | None = None) -> list[str]:
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
        if size not in sizes_of(name):
            raise UserError(f"{name}: {size} does not go through it, only {', '.join(sizes_of(name))}; leave it out")
    chain = [name for name in STAGES if size in sizes_of(name)]
    if chain.index(begin) > chain.index(end or begin):
        raise UserError(f"{stages}: {begin} comes after {end}; name the earlier stage first")
    chain = chain[chain.index(begin) : chain.index(end or begin) + 1]
    if first is None:
        return chain
    require_known("stage", first, STAGES)
    if first not in chain:
        raise UserError(f"--from {first}: not one of the stages {', '.join(chain)}; name one of them")
    return chain[chain.index(first) :]


def tasks(
    names: Sequence[str],
    size: str,
    run_folder: Path,
    data: Path | None,
    devices: int | None,
    overrides: Sequence[str],
    init: str | None = None,
) -> list[Task]:
    """Return the tasks of a chain: data (tiny only); training, merge and export of each stage; report and generation.

    What the run's folder holds already has no task.

    Args:
        names: the stages, as :func:`stages_of` returns them.
        size: model size.
        data: a folder of prepared data; for tiny the chain prepares one when None.
        devices: processes to train with, a GPU each; as many as hold the model once when None.
        overrides: for every stage of the chain that has their key.
        init: what the first stage begins with in place of its parent: a NeMo checkpoint, a finished stage's folder, or
            ``hf:NAME`` or ``hf:FOLDER``, which is imported first.

    Raises:
        UserError: an unknown override; a stage of another kind; a size that does not prepare its own data, and
            none given; a stage that finished with another recipe.
    """
    own = _overrides_by_stage(names, size, overrides)
    recipes = {name: resolve_pretraining(name, size, own[name]) for name in names}
    manifests = {name: read_manifest(run_folder / name) for name in names}
    unfinished = [name for name in names if manifests[name].get("status") != "finished"]
    chain: list[Task] = []

    def add(name: str, *words: str, after: Sequence[str | None], processes: int = 1) -> str:
        chain.append(Task(name, words, tuple(filter(None, after)), processes))
        return name

    prepared = begin = None
    if data is None:
        if size != "tiny":
            raise UserError(f"size {size} needs prepared data: name its folder with --data")
        data, vocab_size = run_folder / "data", recipes[names[0]].model.vocab_size.value
        if unfinished:
            prepared = add("data", "data", "tiny", "--output", str(data), f"--vocab-size={vocab_size}", after=())
    if init and init.startswith("hf:"):
        imported = run_folder / "init"
        if not imported.exists():
            begin = add("init", "import", "--hf", init.removeprefix("hf:"), "--output", str(imported), after=())
        init = str(imported)
    ready, exports = begin, []
    for name, recipe in recipes.items():
        folder = run_folder / name
        source = ("--init", init) if init and name == names[0] else ()
        if name in unfinished:
            words = ("train", name, "--size", size, "--run-dir", str(run_folder), "--data", str(data), *source)
            processes = devices or recipe.parallelism.gpus_per_replica
            ready = add(name, *words, *own[name], after=(prepared, ready), processes=processes)
        else:
            check_recipe(folder, recipe)
            ready = None
        if recipe.merge and not (folder / MERGED).exists():
            start = manifests[name].get("start", {}).get("checkpoint") or (
                source[1] if source else run_folder / str(recipe.parent)
            )
            weight = recipe.merge.weight.value
            ready = add(
                f"{name}-merge",
                *("merge", "--method", recipe.merge.method.value, "--parents", str(folder), str(start)),
                *("--weights", f"{weight:.6g}", f"{1 - weight:.6g}", "--output", str(folder / MERGED)),
                after=(ready,),
            )
        if not (folder / "hf").exists():
            words = ("export", "--checkpoint", str(folder), "--output", str(folder / "hf"))
            exports.append(add(f"{name}-export", *words, after=(ready,)))
    report = add("report", "report", "--run-dir", str(run_folder), after=exports or [ready])
    add("generate", "generate", str(run_folder / names[-1] / "hf"), after=(report,))
    return chain


def _overrides_by_stage(names: Sequence[str], size: str, overrides: Sequence[str]) -> dict[str, list[str]]:
    keys = {override: override.partition("=")[0] for override in overrides}
    known = {name: flatten(resolve_pretraining(name, size)) for name in names}
    # what no stage knows is refused by the first
    everywhere = [override for override, key in keys.items() if not any(key in leaves for leaves in known.values())]
    return {name: everywhere + [text for text, key in keys.items() if key in known[name]] for name in names}
