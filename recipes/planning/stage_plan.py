"""The plan of a stage: whether it fits, what it takes, and the sum over stages."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recipes.common.errors import UserError
from recipes.planning import costs, failures
from recipes.planning.figures import Figure, number
from recipes.planning.hardware import Gpu, gpu
from recipes.planning.options import PlanOptions
from recipes.planning.rollouts import plan_servers, rl_time
from recipes.planning.search import nearest_fit, step_seconds
from recipes.registry.resolve import resolve
from recipes.registry.violations import violations
from recipes.spec.memory import (
    Formula,
    estimate,
    explain,
    micro_batches,
    sequences_per_step,
)
from recipes.spec.origin import assumed
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.recipe import CommonRecipe
from recipes.spec.rl import RlRecipe
from recipes.spec.sft import SftRecipe

# Megatron's token files have two bytes a token for small vocabularies (DType.optimal_dtype)
SMALL_VOCABULARY = 65_500
# bytes of a token in a folder of packed conversations: its id, and whether it is trained
PACKED_BYTES = 4 + 1
PROMPT_BYTES = assumed(2000, "a prompt with its gold answer as JSON")


@dataclass(frozen=True)
class StagePlan:
    """What a stage needs.

    Attributes:
        layout: GPUs and how they are divided.
        memory: bytes on the fullest GPU at a step's peak, by part.
        figures: name -> number with its arithmetic, in the order of the report.
    """

    recipe: CommonRecipe
    gpu: Gpu
    layout: dict[str, int]
    memory: dict[str, Formula]
    figures: dict[str, Figure]

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.recipe.stage

    @property
    def peak_bytes(self) -> float:
        """Bytes on the fullest GPU at a step's peak."""
        return sum(part.value for part in self.memory.values())

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return {
            "stage": self.stage,
            "title": self.recipe.title,
            "gpu": self.gpu.name,
            "layout": self.layout,
            "recompute": self.recipe.parallelism.recompute.value,
            "memory": {name: asdict(part) for name, part in self.memory.items()},
            "peak_bytes": self.peak_bytes,
            "usable_bytes": self.gpu.usable_bytes,
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
        }


def plan_stage(
    stage: str, size: str, options: PlanOptions, overrides: Sequence[str] = ()
) -> StagePlan:
    """Plan a stage.

    Raises:
        UserError: an unknown stage, size or key, GPUs that the recipe's layout does not divide, or
            memory that does not fit.
    """
    recipe = resolve(stage, size, [*options.overrides(), *overrides], validate=False)
    for sentence in violations(recipe):
        raise UserError(sentence)
    require_gpus(recipe)
    processor = gpu(recipe.parallelism.gpu_type.value)
    require_memory(recipe, processor)
    return build_plan(recipe, processor, options)


def build_plan(recipe: CommonRecipe, processor: Gpu, options: PlanOptions) -> StagePlan:
    """Return the plan of a recipe, whether it fits or not."""
    parallel = recipe.parallelism
    layout = {
        "GPUs": parallel.gpus.value,
        "TP": parallel.tensor_model_parallel_size.value,
        "PP": parallel.pipeline_model_parallel_size.value,
        "CP": parallel.context_parallel_size.value,
        "DP": parallel.data_parallel_size,
        "micro-batch": parallel.micro_batch_size.value,
        "micro-batches": micro_batches(recipe),
    }
    fullest = max(
        (explain(recipe, stage) for stage in range(layout["PP"])),
        key=lambda parts: sum(part.value for part in parts.values()),
    )
    figures = _figures(recipe, processor, options)
    return StagePlan(recipe, processor, layout, fullest, figures)


def _figures(recipe: CommonRecipe, processor: Gpu, options: PlanOptions) -> dict[str, Figure]:
    gpus = recipe.parallelism.gpus.value
    steps = recipe.steps.value  # type: ignore[attr-defined]
    figures = {
        "steps": Figure(steps, "", _why(recipe, "steps")),
        "sequences per step": Figure(
            sequences_per_step(recipe), "", f"of {recipe.sequence_length.value:,} tokens"
        ),
    }
    if isinstance(recipe, RlRecipe):
        figures |= rl_time(recipe, processor, options)
        # trainers wait for servers and servers for trainers, and all are paid for
        servers = plan_servers(recipe, processor)
        figures["GPUs that generate"] = Figure(
            servers.gpus,
            "",
            f"servers of {servers.gpus_each} with {servers.samples_each:g} samples each",
        )
        gpus += servers.gpus
    else:
        tokens = recipe.tokens.value  # type: ignore[attr-defined]
        figures["tokens"] = Figure(tokens, "tokens", _why(recipe, "tokens"))
        if isinstance(recipe, SftRecipe):
            figures |= _packing(recipe)
        figures |= costs.training_time(recipe, tokens, processor, options)
        figures["step"] = Figure(
            figures["time"].value * costs.HOUR / steps, "s", f"time / {steps:,} steps"
        )
        figures |= _estimated_step(recipe, processor, options, figures["FLOPs"].value / steps)

    # what a chain takes and pays includes what failures cost
    figures |= _failures(recipe, figures, options)
    hours = figures["time with failures"].value
    figures |= costs.expenses(hours, gpus, processor, options)
    figures |= costs.storage(recipe)
    figures["data"] = _data(recipe)
    return figures


def _estimated_step(
    recipe: CommonRecipe, processor: Gpu, options: PlanOptions, flops: float
) -> dict[str, Figure]:
    """Return the step that the layout search estimates, to compare with the one at the MFU."""
    parts = step_seconds(recipe, processor, options)
    seconds = sum(parts.values())
    gpus = recipe.parallelism.gpus.value
    terms = " + ".join(f"{name} {number(value)} s" for name, value in parts.items())
    return {
        "step, estimated": Figure(seconds, "s", terms),
        "MFU, estimated": Figure(
            flops / (seconds * gpus * processor.flops),
            "",
            f"{flops:.4g} FLOP / ({seconds:.4g} s x {gpus:,} GPUs x {processor.peak_tflops:g} "
            "TFLOP/s); `time` is at MFU, not at this",
        ),
    }


def _why(recipe: CommonRecipe, name: str) -> str:
    leaf = getattr(recipe, name)
    return f"{leaf.origin}: {leaf.why}"


def _packing(recipe: SftRecipe) -> dict[str, Figure]:
    sequences = recipe.steps.value * recipe.global_batch_size.value
    samples = recipe.samples.value * recipe.epochs.value
    return {
        "samples per sequence": Figure(
            samples / sequences,
            "",
            f"{recipe.samples.value:,} samples x {recipe.epochs.value} epochs / ("
            f"{recipe.steps.value:,} steps x {recipe.global_batch_size.value:,} sequences); "
            "attention is counted over the whole sequence, an upper bound",
        )
    }


def checkpoint_steps(recipe: CommonRecipe) -> int:
    """Return the steps from checkpoint to checkpoint."""
    steps: Any = recipe.checkpoint_every_steps  # type: ignore[attr-defined]
    # derived from tokens in pre-training, a value of the table in the other stages
    return steps if isinstance(steps, int) else steps.value


def _failures(
    recipe: CommonRecipe, figures: dict[str, Figure], options: PlanOptions
) -> dict[str, Figure]:
    save = costs.save_seconds(recipe)
    restart = costs.restart_seconds(recipe)
    steps = checkpoint_steps(recipe)
    interval = steps * figures["step"].value
    gpus = recipe.parallelism.gpus.value
    # one failure of any GPU stops the job
    mean_time = options.failure_hours.value * costs.HOUR / gpus
    best = failures.daly_interval(save.value, mean_time)
    share = failures.goodput(interval, save.value, restart.value, mean_time)
    if not share:
        raise UserError(
            f"{recipe.stage}: {gpus:,} GPUs fail every {mean_time:,.0f} s, and no interval of "
            f"{interval:,.0f} s between checkpoints ever ends; lower the interval or --gpus, or "
            "raise --failure-hours"
        )
    best_share = failures.goodput(best, save.value, restart.value, mean_time)
    hours = figures["time"].value
    return {
        "save": save,
        "restart": restart,
        "time between failures": Figure(
            mean_time / costs.HOUR,
            "h",
            f"{options.failure_hours.value:,.0f} h of one GPU / {gpus:,} GPUs; "
            f"{options.failure_hours.why}",
        ),
        "checkpoint interval": Figure(
            interval / costs.HOUR, "h", f"{steps:,} steps x {figures['step'].value:,.4g} s"
        ),
        "best checkpoint interval": Figure(
            best / costs.HOUR,
            "h",
            f"Daly 2006, from sqrt(2 x {save.value:,.4g} s x {mean_time:,.0f} s); it would make "
            f"the goodput {best_share:.2%}",
        ),
        "goodput": Figure(
            share,
            "",
            "interval / (M e^(restart/M) (e^((interval + save)/M) - 1)), M the time between "
            "failures (Daly 2006)",
        ),
        "time with failures": Figure(
            hours / share, "h", f"{hours:,.4g} h / {share:.4f} of the time is progress"
        ),
    }


def _data(recipe: CommonRecipe) -> Figure:
    """Return the bytes of the data that is read."""
    if isinstance(recipe, PretrainRecipe):
        per_token = 2 if recipe.model.vocab_size.value < SMALL_VOCABULARY else 4
        count = recipe.tokens.value
        what = "tokens, read once"
    elif isinstance(recipe, SftRecipe):
        per_token = PACKED_BYTES
        count = recipe.tokens.value // recipe.epochs.value
        what = "tokens of an epoch"
    else:
        per_token = PROMPT_BYTES.value
        count = recipe.prompts.value  # type: ignore[attr-defined]
        what = f"prompts: {PROMPT_BYTES.why}"
    size = per_token * count / 1e9
    formula = f"{per_token:,} bytes x {count:,} {what}"
    if size < 1000:
        return Figure(size, "GB", formula)
    return Figure(size / 1000, "TB", formula)


def require_gpus(recipe: CommonRecipe) -> None:
    """Check that whole replicas of the model share the step's sequences evenly.

    Raises:
        UserError: they do not.
    """
    parallel = recipe.parallelism
    gpus = parallel.gpus.value
    replica = parallel.gpus_per_replica
    # every number of replicas that divides the step's micro-batches
    batch = sequences_per_step(recipe) // parallel.micro_batch_size.value
    counts = [replica * share for share in range(1, batch + 1) if batch % share == 0]
    if gpus in counts:
        return

    near = [count for count in counts if count < gpus][-1:]
    near += [count for count in counts if count > gpus][:1]
    raise UserError(
        f"{recipe.stage}: {gpus:,} GPUs do not share {sequences_per_step(recipe):,} sequences a "
        f"step evenly in micro-batches of {parallel.micro_batch_size.value} on replicas of TP "
        f"{parallel.tensor_model_parallel_size.value} x PP "
        f"{parallel.pipeline_model_parallel_size.value} x CP "
        f"{parallel.context_parallel_size.value} = {replica} GPUs; the nearest counts that do are "
        f"{' and '.join(f'{count:,}' for count in near)}, other layouts are found by --search"
    )


def require_memory(recipe: CommonRecipe, processor: Gpu) -> None:
    """Check that the recipe fits a GPU.

    Raises:
        UserError: it does not; the sentence names the nearest change that makes it fit.
    """
    needed = estimate(recipe).total
    if needed <= processor.usable_bytes:
        return
    remedy = nearest_fit(recipe, processor)
    raise UserError(
        f"{recipe.stage}: {needed / 1e9:.1f} GB exceed the {processor.usable_bytes / 1e9:.1f} GB "
        f"that a {processor.name} can give by {(needed - processor.usable_bytes) / 1e9:.1f} GB; "
        f"{remedy}"
    )


def totals(plans: Iterable[StagePlan]) -> dict[str, Figure]:
    """Return the sums over stages of what adds up."""
    sums: dict[str, Figure] = {}
    for name in ("FLOPs", "time with failures", "GPU-hours", "energy", "cost", "jobs", "storage"):
        found = [plan.figures[name] for plan in plans if name in plan.figures]
        if found:
            value = sum(figure.value for figure in found)
            sums[name] = Figure(value, found[0].unit, f"sum of {len(found)} stages")
    return sums
