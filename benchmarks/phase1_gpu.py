"""Phase 1 on one GPU: tokens/s, and the share of what the card's matrix multiplication reaches in
the same run.

    python benchmarks/phase1_gpu.py [--size 3b] [--layers 4] [--sequence-length 4096]
    [--micro-batch-size 2]

Method: the first layers of the size, with its embedding and logits, as Megatron-Core builds and
trains them: the model, precision, optimizer settings and gradient buffers of the recipe of phase 1,
in one process without parallelism, on random tokens (what the tokens are does not change the
speed). A step is ``--micro-batches`` times forward and backward, gradient clipping and the update;
the first three are left out and the median of ``--steps`` is taken, each from one synchronisation
with the card to the next. Attention is TransformerEngine's where that is installed, else torch's
``scaled_dot_product_attention``.

The limit is ``torch.matmul`` of two square matrices of ``--matmul`` rows in the same precision: the
median of ten before and ten after the training.

Model FLOPs of a token are 6 P + 6 L S H. P are the parameters that take part in matrix
multiplications: all matrices, the tied embedding once, for the logits. Each is one multiply-add
forward and two backward (PaLM, arXiv 2204.02311, appendix B). Attention of L layers, H = heads x
head dimension, over S tokens takes 12 L S H there and half of it here, since the causal mask leaves
half of the scores (FlashAttention-2, arXiv 2307.08691, section 4.1). Norms, rotary embeddings,
softmax and recomputation count nothing.

Without CUDA the same script runs on the CPU in fp32 with a tiny shape; its figures then say nothing
about a GPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from cli import report

WARM_UP_STEPS = 3
MATMULS = 10


def timed(function: Callable) -> float:
    """Return the seconds until everything that ``function`` asks of the device is done."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_speeds(rows: int, dtype: object) -> list[float]:
    """Return FLOP/s of ``MATMULS`` multiplications of two ``rows`` x ``rows`` matrices, after three
    that warm up.
    """
    import torch

    a, b, out = (torch.randn(rows, rows, device="cuda").to(dtype) for _ in range(3))
    seconds = [timed(lambda: torch.matmul(a, b, out=out)) for _ in range(WARM_UP_STEPS + MATMULS)]
    return [2 * rows**3 / taken for taken in seconds[WARM_UP_STEPS:]]


def main() -> None:
    """Run the measurement and print its figures."""
    # the CPU backend must be on before anything of Megatron runs
    from recipes.model.granite import HAVE_TRANSFORMER_ENGINE
    from recipes.training.pretraining import pretraining_recipe  # isort: skip
    import fiddle
    import torch
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
    from megatron.core.optimizer import get_megatron_optimizer
    from megatron.core.transformer.module import Float16Module

    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", default="3b" if cuda else "tiny", help="3b on a GPU, tiny on a CPU"
    )
    parser.add_argument("--layers", type=int, default=4 if cuda else 2)
    parser.add_argument("--sequence-length", type=int, default=4096 if cuda else 64)
    parser.add_argument("--micro-batch-size", type=int, default=2, help="in sequences (2)")
    parser.add_argument("--micro-batches", type=int, default=4, help="of a step (4)")
    parser.add_argument("--steps", type=int, default=10, help="that are measured (10)")
    parser.add_argument(
        "--matmul", type=int, default=8192 if cuda else 512, help="rows of the square matrices"
    )
    options = parser.parse_args()

    recipe = pretraining_recipe(
        "phase1",
        options.size,
        [f"model.num_layers={options.layers}", f"sequence_length={options.sequence_length}"],
        folder="",
        data=[],
        tokenizer="",
    )
    config, optimizer_config = fiddle.build(recipe.model.config), fiddle.build(recipe.optim.config)
    buffers = fiddle.build(recipe.trainer.strategy.ddp)
    # there is nothing to overlap with on one card
    buffers.overlap_grad_reduce = buffers.overlap_param_gather = False
    dtype = torch.bfloat16 if cuda else torch.float32
    config.bf16, config.params_dtype = optimizer_config.bf16, optimizer_config.params_dtype = (
        cuda,
        dtype,
    )

    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    tensor_parallel.model_parallel_cuda_manual_seed(1234)
    model = config.configure_model().cuda()
    model = DistributedDataParallel(
        config, buffers, Float16Module(config, model) if cuda else model
    )
    optimizer = get_megatron_optimizer(optimizer_config, [model], use_gloo_process_groups=False)

    shape = (options.micro_batch_size, options.sequence_length + 1)
    tokens = torch.randint(config.vocab_size, shape, device="cuda")
    positions = torch.arange(options.sequence_length, device="cuda").expand(
        options.micro_batch_size, -1
    )
    losses = []

    def step() -> None:
        model.zero_grad_buffer()
        optimizer.zero_grad()
        for _ in range(options.micro_batches):
            loss = (
                model(tokens[:, :-1], positions, None, labels=tokens[:, 1:]).mean()
                / options.micro_batches
            )
            loss.backward()
        finalize_model_grads([model])
        optimizer.step()
        losses[:] = [loss.detach() * options.micro_batches]

    speeds = matmul_speeds(options.matmul, dtype)
    seconds = [timed(step) for _ in range(WARM_UP_STEPS + options.steps)][WARM_UP_STEPS:]
    speeds += matmul_speeds(options.matmul, dtype)

    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    attention = (
        config.num_layers
        * options.sequence_length
        * config.num_attention_heads
        * config.kv_channels
    )
    flops_per_token = 6 * matrices + 6 * attention
    tokens_per_step = options.micro_batches * options.micro_batch_size * options.sequence_length
    tokens_per_second = tokens_per_step / statistics.median(seconds)
    reached, limit = tokens_per_second * flops_per_token, statistics.median(speeds)
    rows = [
        ["parameters in matrices, M", f"{matrices / 1e6:,.3f}"],
        ["model GFLOPs a token", f"{flops_per_token / 1e9:,.4f}"],
        ["of these attention, %", f"{600 * attention / flops_per_token:.1f}"],
        ["median step, ms", f"{1e3 * statistics.median(seconds):,.1f}"],
        ["shortest step, ms", f"{1e3 * min(seconds):,.1f}"],
        ["longest step, ms", f"{1e3 * max(seconds):,.1f}"],
        ["tokens/s", f"{tokens_per_second:,.0f}"],
        ["model TFLOP/s", f"{reached / 1e12:,.4f}"],
        [f"matmul of {options.matmul:,} rows, TFLOP/s", f"{limit / 1e12:,.4f}"],
        ["share of the matmul, %", f"{100 * reached / limit:.1f}"],
        ["loss of the last step", f"{float(losses[0]):.3f}"],
    ]
    if cuda:
        rows.append(["peak memory, GB", f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"])
    length = f"{options.sequence_length} tokens a sequence"
    what = f"phase1 of {options.size}, {options.layers} layers, {length}"
    report(
        [what, torch.cuda.get_device_name() if cuda else "CPU"],
        rows,
        str(dtype).removeprefix("torch."),
        f"torch {torch.__version__}",
        "TransformerEngine" if HAVE_TRANSFORMER_ENGINE else "no TransformerEngine",
        f"{torch.get_num_threads()} torch threads",
    )
    if not cuda:
        print("no CUDA here: these are a CPU's figures, they only show that the script runs")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
