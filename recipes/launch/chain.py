"""A chain as tasks with dependencies, each a ``granite41`` command that also runs by hand."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from data_prep.conversations.judge.scripted_server import MODEL
from data_prep.conversations.made_up.generation import TRAINING
from data_prep.prompts.tiny import tiny_sources
from evaluation import suites
from evaluation.gates import has_passed
from evaluation.results import UNITS, evaluation_name, is_complete
from evaluation.suites import LONG_CONTEXT
from recipes.common.errors import UserError
from recipes.model_folder.hub import is_path
from recipes.model_folder.weights import open_granite
from recipes.registry.checks import require_processes
from recipes.registry.resolve import Recipe, require_known, resolve_ready
from recipes.registry.stages import STAGES, stage_sizes
from recipes.runs.chain_request import ChainRequest
from recipes.runs.commands import (
    MADE_UP,
    QUESTION,
    CorporaOptions,
    CurateOptions,
    EvaluateOptions,
    ExportOptions,
    GateOptions,
    GenerateOptions,
    ImportOptions,
    MadeUpOptions,
    MergeOptions,
    Options,
    PackOptions,
    PromptsOptions,
    ReportOptions,
    RulerOptions,
    TinyDataOptions,
    TrainOptions,
)
from recipes.runs.curated_folder import CURATED
from recipes.runs.data_folder import TOKENIZER, check_manifest, read_data_manifest
from recipes.runs.packed_manifest import check_packed
from recipes.runs.prompts import PromptFolder, stage_prompts
from recipes.runs.stage_folder import MERGED, check_recipe, final_checkpoint
from recipes.runs.stage_manifest import read_manifest
from recipes.runs.task import Task
from recipes.spec.pretraining import PretrainRecipe, stage_merge
from recipes.spec.rl import RlRecipe
from recipes.spec.sft import SftRecipe
from recipes.spec.sizes import SIZES
from recipes.spec.tree import flatten

# folders of a run
_DATA = "data"
_INIT = "init"
_CORPORA = "corpora"
_RULER = "ruler"
_CONVERSATIONS = "conversations"
_PACKED = "packed"
_PROMPTS = "prompts"
# folders of a stage
_EVALUATIONS = "eval"
_EXPORT = "hf"

_UNMERGED = "unmerged"


def select_stages(stages: str, size: str, first: str | None = None) -> list[str]:
    """Return the stages that ``A`` or ``A..B`` names, in order, as far as ``size`` has them.

    Args:
        stages: a stage, or the first and the last one.
        size: model size.
        first: leave out the stages before it.

    Raises:
        UserError: an unknown stage or size, a stage that the size does not go through, a range from
            a later to an earlier stage, or a ``first`` that is not in it.
    """
    require_known("size", size, SIZES)
    begin, dots, end = stages.partition("..")
    if not dots:
        end = begin
    if not begin or not end or ".." in end:
        raise UserError(f"{stages}: expected a stage, or two as in phase1..phase4; name both")
    for name in (begin, end):
        require_known("stage", name, STAGES)
        if size not in stage_sizes(name):
            sizes = ", ".join(stage_sizes(name))
            raise UserError(f"{name}: {size} does not go through it, only {sizes}; leave it out")

    every = _stages_of_size(size)
    start = every.index(begin)
    stop = every.index(end)
    if start > stop:
        raise UserError(f"{stages}: {begin} comes after {end}; name the earlier stage first")
    chain = every[start : stop + 1]
    if first is None:
        return chain

    require_known("stage", first, STAGES)
    if first not in chain:
        raise UserError(
            f"--from {first}: not one of the stages {', '.join(chain)}; name one of them"
        )
    return chain[chain.index(first) :]


def _stages_of_size(size: str) -> list[str]:
    return [stage for stage in STAGES if size in stage_sizes(stage)]


def final_stages(size: str) -> tuple[str, str]:
    """Return the stages whose models IBM has published, with scores: base, and instruct."""
    stages = _stages_of_size(size)
    extensions = [stage for stage in stages if STAGES[stage].kind == "long_context"]
    return extensions[-1], stages[-1]


def build_chain(
    request: ChainRequest,
    run_folder: Path,
    *,
    on_cluster: bool = False,
    state: Path | None = None,
) -> list[Task]:
    """Return the tasks of a chain: data, each stage with its evaluation, and a report.

    A stage starts when the gate of the one before has passed. Results that the run's folder holds
    already have no task.

    Args:
        request: the user's; without ``data`` a chain of size tiny prepares its own.
        run_folder: the run's folder, as the tasks see it.
        on_cluster: whether the tasks run on more than this machine.
        state: the run's folder as seen from here, where ``run_folder`` is on a cluster.

    Raises:
        UserError: an unknown override; a planned stage; no data for a size that does not
            prepare its own; a stage that finished with another recipe; a number of processes that
            a stage cannot use; a damaged manifest or recipe.
    """
    chain = ChainBuilder(request, run_folder, state or run_folder, on_cluster)
    prepared = chain.data()
    ready = chain.initial_checkpoint()
    evaluated = None
    if request.evaluate:
        evaluated = chain.ruler_samples(prepared)

    # the next stage starts from `ready`, its evaluation after `evaluated`
    ends = []
    for recipe in chain.recipes.values():
        packed = chain.conversations(recipe, after=[prepared, ready])
        prompts = chain.prompts(recipe)
        trained = chain.train(recipe, after=[packed or prepared, prompts, ready])
        ready = chain.merge(recipe, trained)
        exported = chain.export(recipe, ready)
        ends.append(exported)
        if request.evaluate:
            gate = chain.evaluate(recipe, trained, exported, evaluated)
            ends.append(gate)
            ready = gate or ready
            evaluated = gate or evaluated

    if not any(ends):
        ends = [ready]
    chain.report(after=ends)
    return chain.tasks


class ChainBuilder:
    """Adds the tasks of a chain, one step at a time.

    A method returns the name of the task that completes its step, for later tasks to wait for; None
    where there is nothing to wait for, as the run's folder holds the step's result.

    Attributes:
        tasks: those that are added so far.
        recipes: stage -> recipe, in the chain's order.
    """

    def __init__(
        self,
        request: ChainRequest,
        run_folder: Path,
        state: Path,
        on_cluster: bool,
    ) -> None:
        """Resolve the recipes and read how far the run is; see :func:`build_chain`."""
        self.tasks: list[Task] = []
        self._size = request.size
        self._devices = request.devices
        self._log = request.log
        self._run_folder = run_folder
        self._state = state
        self._on_cluster = on_cluster

        self._overrides = _overrides_by_stage(request)
        self.recipes = resolve_recipes(request)
        self._is_tiny = SIZES[request.size].is_tiny
        self._first_stage = request.stages[0]
        self._manifests = {}
        for stage in request.stages:
            self._manifests[stage] = read_manifest(state / stage)

        # size tiny prepares its own data
        self._prepares_data = request.data is None
        self._data = run_folder / _DATA
        needs_data = self._is_left(PretrainRecipe)
        if request.data is not None:
            self._data = Path(request.data)
        elif needs_data and not self._is_tiny:
            raise UserError(f"size {request.size} needs prepared data: name its folder with --data")
        self._prepares_packed = request.packed is None
        self._packed = run_folder / _PACKED
        if request.packed is not None:
            self._packed = Path(request.packed)
        elif self._is_left(SftRecipe) and not self._is_tiny:
            raise UserError(
                "supervised fine-tuning needs packed conversations: name the folder of "
                "`granite41 data pack` with --packed"
            )

        # and its own prompts
        self._request = request
        self._prompts = run_folder / _PROMPTS
        if request.prompts is not None:
            self._prompts = Path(request.prompts)
        elif self._is_left(RlRecipe) and not self._is_tiny:
            raise UserError(
                "reinforcement learning needs prompts: name the folder of `granite41 data prompts` "
                "with --prompts"
            )

        # a Hugging Face model is imported into the run's folder first
        self._import: str | None = None
        self._init = request.init
        if request.init and request.init.startswith("hf:"):
            self._import = request.init.removeprefix("hf:")
            self._init = str(run_folder / _INIT)

    def data(self) -> str | None:
        """Prepare the data of size tiny."""
        if not self._prepares_data or not self._is_left(PretrainRecipe):
            return None
        model = self.recipes[self._first_stage].model
        options = TinyDataOptions(
            output=self._data,
            vocab_size=model.vocab_size.value,
        )
        return self._add("data", options)

    def initial_checkpoint(self) -> str | None:
        """Import the Hugging Face model that the first stage starts from."""
        is_imported = (self._state / _INIT).exists()
        if self._import is None or is_imported:
            return None
        options = ImportOptions(
            hf=self._import,
            output=self._run_folder / _INIT,
        )
        return self._add("init", options)

    def conversations(self, recipe: Recipe, after: Iterable[str | None]) -> str | None:
        """Make up conversations for fine-tuning at size tiny, curate and pack them.

        Args:
            recipe: of a stage, which may be one that needs none.
            after: the tasks that make the tokenizer.
        """
        if not isinstance(recipe, SftRecipe) or self._is_finished(recipe.stage):
            return None
        if not self._prepares_packed or (self._state / _PACKED).exists():
            return None

        made_up = self._run_folder / _CONVERSATIONS
        task = None
        if not (self._state / _CONVERSATIONS).exists():
            options = MadeUpOptions(output=made_up, conversations=recipe.samples.value)
            task = self._add("conversations", options)
        # a curation that was interrupted is continued
        curated = self._run_folder / CURATED
        curate = CurateOptions(
            inputs=(str(made_up / TRAINING),),
            output=curated,
            judge=MADE_UP,
            model=MODEL,
            workers=1,
        )
        task = self._add("curate", curate, after=[task])
        pack = PackOptions(
            inputs=(curated,),
            tokenizer=self._tokenizer(recipe.stage),
            sequence_length=recipe.sequence_length.value,
            output=self._packed,
        )
        return self._add("pack", pack, after=[task, *after])

    def _tokenizer(self, stage: str) -> Path:
        """Return the folder of the tokenizer of what a stage starts from."""
        init = self._get_init(stage)
        if init is None:
            return self._data / TOKENIZER
        checkpoint = final_checkpoint(Path(init)) or Path(init)
        return checkpoint / "context" / TOKENIZER

    def prompts(self, recipe: Recipe) -> str | None:
        """Prepare a stage's prompts at size tiny."""
        if not isinstance(recipe, RlRecipe) or self._request.prompts is not None:
            return None
        stage = recipe.stage
        if self._is_finished(stage) or (self._state / _PROMPTS / stage).exists():
            return None
        counts = tiny_sources(stage, recipe.prompts.value)
        options = PromptsOptions(
            sources=tuple(f"{name}={count}" for name, count in counts.items()),
            output=self._prompts / stage,
            easy=True,
        )
        return self._add(f"{stage}-prompts", options)

    def ruler_samples(self, prepared: str | None) -> str | None:
        """Generate RULER's samples for all stages, before any GPU is taken.

        Args:
            prepared: the task that prepares the data, which has the tokenizer.
        """
        # one set of samples serves all stages, as they have the same tokenizer
        lengths: set[int] = set()
        for stage in self.recipes:
            has_ruler = LONG_CONTEXT in suites.stage_suites(stage, self._size)
            if has_ruler and not self._is_evaluated(stage, LONG_CONTEXT):
                recipe = resolve_ready(stage, self._size)
                lengths |= set(self._ruler_lengths(recipe))
        if not lengths:
            return None

        # the published texts are fetched once for a run
        corpora = self._corpora()
        fetched = None
        if corpora and not (self._state / _CORPORA).exists():
            fetched = self._add("corpora", CorporaOptions(output=corpora))
        # None, all documents, is for suites whose documents are not generated
        samples = cast(int, suites.samples(LONG_CONTEXT, self._size))
        options = RulerOptions(
            tokenizer=self._data / TOKENIZER,
            lengths=tuple(sorted(lengths)),
            samples=samples,
            output=self._run_folder / _RULER,
            tasks=tuple(suites.get_suite(LONG_CONTEXT, self._size).tasks),
            corpora=corpora,
        )
        return self._add("ruler", options, after=[prepared, fetched])

    def train(
        self,
        recipe: Recipe,
        after: Iterable[str | None],
    ) -> str | None:
        """Train a stage; check the recipe of one that has finished."""
        stage = recipe.stage
        if self._is_finished(stage):
            check_recipe(self._state / stage, recipe)
            return None

        # one replica of the model on this machine, the recipe's GPUs on a cluster
        processes = recipe.parallelism.gpus_per_replica
        if self._on_cluster:
            processes = recipe.parallelism.gpus.value
        if self._devices:
            processes = self._devices
        require_processes(recipe, processes)
        options = TrainOptions(
            stage=stage,
            size=self._size,
            run_dir=self._run_folder,
            init=self._get_init(stage),
            log=self._log,
            overrides=tuple(self._overrides[stage]),
            **self._inputs(recipe),
        )
        task = Task(
            stage,
            options.to_argv(),
            _names(after),
            processes=processes,
            needs_gpu=True,
            stage_folder=self._run_folder / stage,
        )
        self.tasks.append(task)
        return stage

    def _inputs(self, recipe: Recipe) -> dict[str, Any]:
        """Return the options that name what a stage trains on."""
        if isinstance(recipe, SftRecipe):
            return {"packed": self._packed}
        if isinstance(recipe, RlRecipe):
            return {
                "prompts": self._prompts,
                "reward_model": self._request.reward_model,
                "reward_model_name": self._request.reward_model_name,
            }
        return {"data": self._data}

    def merge(self, recipe: Recipe, trained: str | None) -> str | None:
        """Merge a long-context stage with its initial checkpoint; other stages end when trained."""
        stage = recipe.stage
        merge = stage_merge(recipe)
        is_merged = (self._state / stage / MERGED).exists()
        if merge is None or is_merged:
            return trained

        # a stage that has started keeps its initial checkpoint, even if --init names another
        manifest = self._manifests[stage]
        initial: Path | str
        if manifest:
            initial = manifest.initial_state.checkpoint
        else:
            parent = self._run_folder / str(recipe.parent)
            initial = self._get_init(stage) or parent

        weight = merge.weight.value
        folder = self._run_folder / stage
        options = MergeOptions(
            method=merge.method.value,
            parents=(folder, initial),
            weights=(weight, 1 - weight),
            output=folder / MERGED,
        )
        return self._add(f"{stage}-merge", options, after=[trained])

    def export(self, recipe: Recipe, ready: str | None) -> str | None:
        """Export a stage's final checkpoint to a Hugging Face folder."""
        stage = recipe.stage
        if (self._state / stage / _EXPORT).exists():
            return None
        folder = self._run_folder / stage
        options = ExportOptions(checkpoint=folder, output=folder / _EXPORT)
        return self._add(f"{stage}-export", options, after=[ready])

    def evaluate(
        self,
        recipe: Recipe,
        trained: str | None,
        exported: str | None,
        previous: str | None,
    ) -> str | None:
        """Evaluate a stage, also before its merge, and add its gate.

        On one machine evaluations follow each other, as they share its GPUs; on a cluster those of
        the final model run at the same time.

        Args:
            trained: the task that trains the stage.
            exported: the task that exports it.
            previous: the task that the first evaluation waits for.
        """
        stage = recipe.stage
        names = suites.stage_suites(stage, self._size)
        # label -> the task that writes the model
        models = {"": exported}
        if stage_merge(recipe):
            models = {_UNMERGED: trained, "": exported}

        ends: list[str | None] = []
        for label, model in models.items():
            # the first evaluation before the merge writes the export that the next ones read
            in_turn = bool(label) or not self._on_cluster
            for suite in names:
                if self._is_evaluated(stage, evaluation_name(suite, label)):
                    continue
                before = previous
                if ends and in_turn:
                    before = ends[-1]
                end = self._evaluate_suite(recipe, suite, label, [model, before])
                ends.append(end)

        # a gate that has passed is not repeated
        evaluations = self._state / stage / _EVALUATIONS
        if not ends and all(has_passed(evaluations / suite) for suite in names):
            return None

        # on one machine the last evaluation has waited for the others
        if not self._on_cluster:
            ends = ends[-1:]
        after = ends or [previous]
        return self.gate(recipe, names, after=[*after, exported])

    def _evaluate_suite(
        self,
        recipe: Recipe,
        suite: str,
        label: str,
        after: Sequence[str | None],
    ) -> str:
        evaluation = evaluation_name(suite, label)
        name = f"{recipe.stage}-{evaluation}"
        units = self._run_folder / recipe.stage / _EVALUATIONS / evaluation / UNITS
        options = EvaluateOptions(
            suite=suite,
            model=recipe.stage,
            size=self._size,
            run_dir=self._run_folder,
            unmerged=bool(label),
        )
        lengths: list[int] = []
        if suite == LONG_CONTEXT:
            options = replace(options, corpora=self._corpora())
            lengths = self._ruler_lengths(recipe)
        if label or not self._on_cluster or len(lengths) < 2:
            return self._add(name, options, after, needs_gpu=True, units_folder=units)

        # a job for each length, and one that gathers their scores
        parts = []
        for length in lengths:
            part = self._add(
                f"{name}-{length}",
                replace(options, lengths=(length,)),
                after,
                needs_gpu=True,
                units_folder=units,
            )
            parts.append(part)
        return self._add(name, options, after=parts)

    def gate(
        self,
        recipe: Recipe,
        suite_names: Sequence[str],
        after: Iterable[str | None],
    ) -> str:
        """Compare a stage's evaluations with published numbers and with its parent's."""
        stage = recipe.stage
        folder = self._run_folder / stage / _EVALUATIONS
        # the parent's short-context scores, where it was evaluated in this run
        baseline = None
        if stage_merge(recipe) and self._get_init(stage) is None:
            parent = self._run_folder / str(recipe.parent)
            baseline = parent / _EVALUATIONS / suite_names[-1]

        # IBM's numbers are of the models at the end
        reference = "none"
        if stage in final_stages(self._size) and not self._is_tiny:
            reference = "published"
        options = GateOptions(
            folders=tuple(folder / suite for suite in suite_names),
            reference=reference,
            baseline=baseline,
            # without a network size tiny has no other texts; nothing is compared with their scores
            allow_fallback=self._is_tiny,
        )
        return self._add(f"{stage}-gate", options, after)

    def report(self, after: Iterable[str | None]) -> str:
        """Report on the run, and generate a text with the model of its last stage."""
        report = self._add(
            "report",
            ReportOptions(run_dir=self._run_folder),
            after,
        )
        last = list(self.recipes.values())[-1]
        options = GenerateOptions(folder=self._run_folder / last.stage / _EXPORT)
        if not isinstance(last, PretrainRecipe):
            options = replace(options, prompt=QUESTION, chat=True)
        return self._add("generate", options, after=[report], needs_gpu=True)

    def _add(
        self,
        name: str,
        options: Options,
        after: Iterable[str | None] = (),
        needs_gpu: bool = False,
        units_folder: Path | None = None,
    ) -> str:
        task = Task(
            name,
            options.to_argv(),
            _names(after),
            needs_gpu=needs_gpu,
            units_folder=units_folder,
        )
        self.tasks.append(task)
        return name

    def _is_left(self, kind: type[Recipe]) -> bool:
        """Whether a stage of a kind is to be trained."""
        return any(
            isinstance(recipe, kind) and not self._is_finished(stage)
            for stage, recipe in self.recipes.items()
        )

    def _is_finished(self, stage: str) -> bool:
        manifest = self._manifests[stage]
        return manifest is not None and manifest.is_finished

    def _is_evaluated(self, stage: str, evaluation: str) -> bool:
        return is_complete(self._state / stage / _EVALUATIONS / evaluation)

    def _get_init(self, stage: str) -> str | None:
        """Return the checkpoint that a stage starts from in place of its parent."""
        if stage == self._first_stage:
            return self._init
        return None

    def _ruler_lengths(self, recipe: Recipe) -> list[int]:
        return suites.lengths(self._size, recipe.sequence_length.value)

    def _corpora(self) -> Path | None:
        """Return RULER's published texts, which size tiny does without."""
        if self._is_tiny:
            return None
        return self._run_folder / _CORPORA


def require_inputs(chain: Sequence[Task], request: ChainRequest) -> None:
    """Check that the inputs of a chain's training exist, before anything is started.

    Raises:
        UserError: no prepared data or packed conversations, or such that cannot serve a stage;
            nothing that a stage can start from.
    """
    require_initial_checkpoint(chain, request.init)
    for recipe in trained_recipes(chain, request):
        if isinstance(recipe, PretrainRecipe) and request.data:
            data = Path(request.data)
            check_manifest(data, read_data_manifest(data), recipe)
        elif isinstance(recipe, SftRecipe) and request.packed:
            from recipes.runs.packed_folder import PackedFolder

            # numpy maps all of its files here
            packed = PackedFolder(Path(request.packed))
            check_packed(packed.folder, packed.manifest, recipe)
        elif isinstance(recipe, RlRecipe) and request.prompts:
            PromptFolder(stage_prompts(Path(request.prompts), recipe.stage))


def require_initial_checkpoint(chain: Sequence[Task], init: str | None) -> None:
    """Raise UserError where nothing that a stage can start from is at ``--init``.

    Neither is a Hugging Face folder that cannot be imported.
    """
    if init is None:
        return
    if init.startswith("hf:"):
        source = init.removeprefix("hf:")
        is_needed = any(task.arguments[0] == "import" for task in chain)
        if is_needed and is_path(source):
            open_granite(Path(source))
        return
    folder = Path(init)
    is_checkpoint = (folder / "weights").is_dir()
    is_needed = any(task.stage_folder and "--init" in task.arguments for task in chain)
    if is_needed and not is_checkpoint and read_manifest(folder) is None:
        raise UserError(
            f"--init {init}: neither a NeMo checkpoint nor a finished stage is there; "
            f"name one, or a Hugging Face folder as hf:FOLDER"
        )


def trained_recipes(chain: Sequence[Task], request: ChainRequest) -> list[Recipe]:
    """Return the recipes of the stages that a chain trains."""
    recipes = resolve_recipes(request)
    return [recipes[task.name] for task in chain if task.stage_folder]


def _names(after: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(name for name in after if name is not None)


def resolve_recipes(request: ChainRequest) -> dict[str, Recipe]:
    """Return stage -> its recipe with the overrides whose key it has, in the chain's order.

    Raises:
        UserError: an unknown override; a planned stage.
    """
    return {
        stage: resolve_ready(stage, request.size, overrides)
        for stage, overrides in _overrides_by_stage(request).items()
    }


def _overrides_by_stage(request: ChainRequest) -> dict[str, list[str]]:
    """Return stage -> the overrides whose key it has; one that no stage has goes to all of them."""
    overrides = request.overrides
    keys_of_stage = {}
    for stage in request.stages:
        recipe = resolve_ready(stage, request.size)
        keys_of_stage[stage] = set(flatten(recipe))
    known = set().union(*keys_of_stage.values())

    # the first stage refuses an unknown key
    unknown = [text for text in overrides if _key(text) not in known]
    by_stage = {}
    for stage, keys in keys_of_stage.items():
        own = [text for text in overrides if _key(text) in keys]
        by_stage[stage] = unknown + own
    return by_stage


def _key(override: str) -> str:
    return override.partition("=")[0]
