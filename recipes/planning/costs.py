"""FLOPs, time, energy, money, storage and jobs of a stage, from its recipe."""

import math

from recipes.planning.figures import Figure
from recipes.planning.hardware import Gpu
from recipes.planning.options import PlanOptions
from recipes.runs.stage_folder import CHECKPOINT_BYTES, STAGE_BYTES
from recipes.spec.origin import Sourced, assumed
from recipes.spec.recipe import CommonRecipe
from recipes.spec.sizes import Size

HOUR = 3600.0
# that a training job stops before its limit, see stop_before_limit of the cluster files
STOP_BEFORE_LIMIT = 600.0
FILE_SYSTEM = assumed(50e9, "bytes/s that a parallel file system takes from all GPUs together")
# one process, see benchmarks/README.md
SAVE_PER_GPU = assumed(281e6, "bytes/s of a process, measured by benchmarks/checkpoint.py")
LOAD_PER_GPU = assumed(211e6, "bytes/s of a process, measured by benchmarks/checkpoint.py")
REQUEUE = assumed(
    144.0, "seconds: 120 that Slurm waits by default, 24 measured by benchmarks/cluster.py"
)


def matrix_parameters(size: Size) -> int:
    """Return the parameters that take part in matrix multiplications.

    The tied embedding counts once, for the logits; looking a token up multiplies nothing.
    """
    norms = (2 * size.num_layers.value + 1) * size.hidden_size.value
    return size.parameter_count.value - norms


def attention_flops(size: Size, length: int) -> float:
    """Return the FLOPs of attention's scores per token, forward and backward, with a causal mask.

    12 x layers x length x heads x head_dim (PaLM, arXiv 2204.02311, appendix B), of which the mask
    leaves half (FlashAttention-2, arXiv 2307.08691, section 4.1).
    """
    heads = size.num_attention_heads.value * size.head_dim.value
    return 6.0 * size.num_layers.value * length * heads


def flops_per_token(size: Size, length: int) -> dict[str, Figure]:
    """Return the FLOPs of a token, forward and backward: the matrices' and attention's."""
    matrices = matrix_parameters(size)
    return {
        "FLOPs per token, dense": Figure(
            6.0 * matrices, "FLOP", f"6 x {matrices:,} parameters in matrices"
        ),
        "FLOPs per token, attention": Figure(
            attention_flops(size, length),
            "FLOP",
            f"6 x {size.num_layers.value} layers x {length:,} tokens x "
            f"{size.num_attention_heads.value} heads x {size.head_dim.value}, causal",
        ),
    }


def training_time(
    recipe: CommonRecipe, tokens: float, gpu: Gpu, options: PlanOptions
) -> dict[str, Figure]:
    """Return FLOPs of ``tokens`` tokens and the seconds that all GPUs together take for them."""
    figures = flops_per_token(recipe.model, recipe.sequence_length.value)
    per_token = sum(figure.value for figure in figures.values())
    flops = per_token * tokens

    mfu = mfu_of(gpu, options)
    gpus = recipe.parallelism.gpus.value

    # the MFU counts each FLOP once, also where it is computed again
    factor = 1.0
    repeated = ""
    if recipe.parallelism.recompute.value == "full":
        factor = 4 / 3
        repeated = " x 4/3 for the forward pass that runs again"
    seconds = factor * flops / (gpus * gpu.flops * mfu.value)
    return figures | {
        "FLOPs": Figure(flops, "FLOP", f"{per_token:.6g} per token x {tokens:,.0f} tokens"),
        "MFU": Figure(mfu.value, "", f"{mfu.origin}: {mfu.why}"),
        "time": Figure(
            seconds / HOUR,
            "h",
            f"{flops:.4g} FLOP / ({gpus:,} GPUs x {gpu.peak_tflops:g} TFLOP/s x {mfu.value:g})"
            f"{repeated}",
        ),
        "tokens per second": Figure(
            tokens / seconds, "tokens/s", f"{tokens:,.0f} tokens / {seconds:,.0f} s"
        ),
    }


def mfu_of(gpu: Gpu, options: PlanOptions) -> Sourced[float]:
    """Return the share of the peak that training reaches, and where it is from."""
    if options.mfu is not None:
        return Sourced(options.mfu, "override", "--mfu")
    origin, _, why = gpu.mfu_source.partition(": ")
    return Sourced(gpu.mfu, "published" if origin == "published" else "assumed", why)


def expenses(hours: float, gpus: int, gpu: Gpu, options: PlanOptions) -> dict[str, Figure]:
    """Return GPU-hours, energy, cost where a price is given, and the number of jobs."""
    gpu_hours = hours * gpus
    figures = {
        "GPU-hours": Figure(gpu_hours, "GPU h", f"{hours:,.4g} h x {gpus:,} GPUs"),
        "energy": Figure(
            gpu_hours * gpu.kilowatts / 1000,
            "MWh",
            f"{gpu_hours:,.0f} GPU h x {gpu.kilowatts:g} kW with the system around a GPU",
        ),
    }
    if options.price is not None:
        figures["cost"] = Figure(
            gpu_hours * options.price, "", f"{gpu_hours:,.0f} GPU h x {options.price:g}"
        )
    # of a job's time, what is left for training
    usable = options.time_limit_hours - (STOP_BEFORE_LIMIT + REQUEUE.value) / HOUR
    figures["jobs"] = Figure(
        math.ceil(hours / usable),
        "",
        f"{hours:,.4g} h / ({options.time_limit_hours:g} h limit - {STOP_BEFORE_LIMIT:g} s before "
        f"it - {REQUEUE.value:g} s to start)",
    )
    return figures


def storage(recipe: CommonRecipe) -> dict[str, Figure]:
    """Return the bytes of a checkpoint and of what a finished stage leaves."""
    parameters = recipe.model.parameter_count.value
    return {
        "checkpoint": Figure(
            CHECKPOINT_BYTES * parameters / 1e9,
            "GB",
            f"{CHECKPOINT_BYTES} bytes x {parameters:,} parameters",
        ),
        "storage": Figure(
            STAGE_BYTES * parameters / 1e9,
            "GB",
            f"{STAGE_BYTES} bytes x {parameters:,} parameters: checkpoints that are kept and the "
            "one that is written, merge, export",
        ),
    }


def save_seconds(recipe: CommonRecipe) -> Figure:
    """Return the seconds that training stands still for a checkpoint."""
    return _transfer(recipe, SAVE_PER_GPU.value)


def restart_seconds(recipe: CommonRecipe) -> Figure:
    """Return the seconds from a failure to the first new step."""
    load = _transfer(recipe, LOAD_PER_GPU.value)
    return Figure(
        REQUEUE.value + load.value,
        "s",
        f"{REQUEUE.value:g} s until the job runs again + {load.formula}",
    )


def _transfer(recipe: CommonRecipe, per_gpu: float) -> Figure:
    size = CHECKPOINT_BYTES * recipe.model.parameter_count.value
    gpus = recipe.parallelism.gpus.value
    # every rank writes and reads its own part
    rate = min(gpus * per_gpu, FILE_SYSTEM.value)
    return Figure(
        size / rate,
        "s",
        f"{size / 1e9:,.4g} GB / {rate / 1e9:,.3g} GB/s, the least of {gpus:,} GPUs x "
        f"{per_gpu / 1e6:g} MB/s and {FILE_SYSTEM.value / 1e9:g} GB/s of the file system",
    )
