"""An RL step by its parts: generation, rewards, log-probabilities, training, refresh."""

from dataclasses import dataclass

from recipes.planning.costs import FILE_SYSTEM, HOUR, flops_per_token, mfu_of
from recipes.planning.figures import Figure
from recipes.planning.hardware import Gpu
from recipes.planning.options import PlanOptions
from recipes.runs.stage_folder import EXPORT_BYTES
from recipes.spec.origin import assumed
from recipes.spec.rl import RlRecipe
from recipes.spec.sizes import Size

PROMPT_SHARE = assumed(1 / 16, "of the context: 512 of 8,192 tokens a prompt; not published")
ANSWER_SHARE = assumed(
    1 / 4, "of the context: 2,048 of 8,192 tokens a mean answer, short beside math's long ones"
)
GENERATION_GPUS = assumed(1.0, "as many GPUs as train serve the model, beside them")
BANDWIDTH_SHARE = assumed(0.6, "of the memory's bandwidth that decoding reaches")
ENGINE_SECONDS = assumed(0.005, "that an engine adds to each token's step: scheduling, sampling")
SERVER_SHARE = assumed(0.5, "of a server's memory for weights, the rest for keys and values")
REWARD_SHARE = assumed(0.05, "of generation that rewards take beyond it, as they run beside it")


@dataclass(frozen=True)
class Servers:
    """What generates: servers of ``gpus_each`` GPUs that share a step's samples."""

    gpus: int
    gpus_each: int
    samples_each: float


def plan_servers(recipe: RlRecipe, gpu: Gpu) -> Servers:
    """Return the servers that generate a step's samples."""
    weights = EXPORT_BYTES * recipe.model.parameter_count.value
    gpus = max(1, round(GENERATION_GPUS.value * recipe.parallelism.gpus.value))

    # as few GPUs a server as hold the weights
    gpus_each = 1
    while weights / gpus_each > SERVER_SHARE.value * gpu.usable_bytes and gpus_each < gpu.node_gpus:
        gpus_each *= 2
    count = max(1, gpus // gpus_each)
    return Servers(gpus, gpus_each, recipe.train_batch_size.value / count)


def step_parts(recipe: RlRecipe, gpu: Gpu, options: PlanOptions) -> dict[str, Figure]:
    """Return the seconds of each part of an RL step, which follow each other.

    Decoding is bound by the memory's bandwidth: each token of the longest answer, which fills the
    context, reads all weights, and each sample's token its keys and values.
    """
    servers = plan_servers(recipe, gpu)
    prompt, answer = sample_tokens(recipe)
    samples = recipe.train_batch_size.value
    tokens = samples * (prompt + answer)

    per_token = sum(
        figure.value for figure in flops_per_token(recipe.model, prompt + answer).values()
    )
    mfu = mfu_of(gpu, options).value
    rate = recipe.parallelism.gpus.value * gpu.flops * mfu
    forward = per_token / 3 * tokens / rate
    rate_text = f"({recipe.parallelism.gpus.value:,} GPUs x {gpu.peak_tflops:g} TFLOP/s x {mfu:g})"
    generation = _generation(recipe, gpu, servers)

    rewards = REWARD_SHARE.value * generation.value
    rewards_text = f"{REWARD_SHARE.value:g} x generation: {REWARD_SHARE.why}"
    if recipe.stage == "rl_rlhf":
        rewards += forward
        rewards_text += "; a forward pass of a reward model of the same size"
    weights = EXPORT_BYTES * recipe.model.parameter_count.value
    return {
        "generation": generation,
        "rewards": Figure(rewards, "s", rewards_text),
        "log-probabilities": Figure(
            2 * forward,
            "s",
            f"2 forward passes, of policy and reference: 2/3 x {per_token:.4g} FLOP x {tokens:,} "
            f"tokens / {rate_text}",
        ),
        "training": Figure(
            3 * forward,
            "s",
            f"{per_token:.4g} FLOP x {tokens:,} tokens, without padding / {rate_text}",
        ),
        "refresh": Figure(
            2 * weights / FILE_SYSTEM.value,
            "s",
            f"2 x {weights / 1e9:.4g} GB written and read / {FILE_SYSTEM.value / 1e9:g} GB/s",
        ),
    }


def sample_tokens(recipe: RlRecipe) -> tuple[int, int]:
    """Return the mean tokens of a prompt and of an answer."""
    context = recipe.sequence_length.value
    return round(PROMPT_SHARE.value * context), round(ANSWER_SHARE.value * context)


def _generation(recipe: RlRecipe, gpu: Gpu, servers: Servers) -> Figure:
    prompt, answer = sample_tokens(recipe)
    longest = recipe.sequence_length.value - prompt
    weights = EXPORT_BYTES * recipe.model.parameter_count.value

    # a token reads the keys and values of all tokens before it
    cached = answer * (prompt + answer / 2) * cache_bytes(recipe.model)
    read = longest * weights + servers.samples_each * cached
    rate = servers.gpus_each * gpu.bandwidth * BANDWIDTH_SHARE.value
    return Figure(
        read / rate + longest * ENGINE_SECONDS.value,
        "s",
        f"{longest:,} tokens x {weights / 1e9:.4g} GB of weights + {servers.samples_each:g} samples"
        f" x {cached / 1e9:.4g} GB of keys and values, / ({servers.gpus_each} GPUs a server x "
        f"{gpu.bandwidth_tb_s:g} TB/s x {BANDWIDTH_SHARE.value:g}) + {longest:,} x "
        f"{ENGINE_SECONDS.value:g} s",
    )


def cache_bytes(size: Size) -> int:
    """Return the bytes of a token's keys and values in bf16."""
    return 4 * size.num_layers.value * size.num_query_groups.value * size.head_dim.value


def rl_time(recipe: RlRecipe, gpu: Gpu, options: PlanOptions) -> dict[str, Figure]:
    """Return the parts of a step, its seconds, the stage's hours and FLOPs."""
    parts = step_parts(recipe, gpu, options)
    step = sum(part.value for part in parts.values())
    steps = recipe.steps.value
    prompt, answer = sample_tokens(recipe)
    length = prompt + answer
    figures = flops_per_token(recipe.model, length)
    per_token = sum(figure.value for figure in figures.values())
    tokens = steps * recipe.train_batch_size.value * length
    mfu = mfu_of(gpu, options)
    return {
        **figures,
        "tokens": Figure(
            tokens,
            "tokens",
            f"{steps:,} steps x {recipe.train_batch_size.value:,} samples x ({prompt:,} + "
            f"{answer:,}) tokens: {ANSWER_SHARE.why}",
        ),
        "FLOPs": Figure(
            per_token * tokens, "FLOP", f"{per_token:.6g} per token x {tokens:,} trained tokens"
        ),
        "MFU": Figure(mfu.value, "", f"{mfu.origin}: {mfu.why}"),
        **parts,
        "step": Figure(step, "s", " + ".join(parts)),
        "time": Figure(steps * step / HOUR, "h", f"{steps:,} steps x {step:,.4g} s"),
    }
