"""Layer stacks of each size on one GPU: tokens/s, share of the matrix ceiling, memory against the
plan's.

    python benchmarks/gpu_calibration.py [--sizes 3b 8b 30b] [--layers 4]
    [--sequence-lengths 4096 16384] [--micro-batch-size 1] [--steps 5]

Method: the first layers of a size, with its embedding and logits, as Megatron-Core builds and
trains them: the model, precision, optimizer settings and gradient buffers of the recipe of phase 1,
in one process without parallelism, on random tokens (what the tokens are does not change the
speed). A step is ``--micro-batches`` times forward and backward, gradient clipping and the update;
the first two are left out and the median of ``--steps`` is taken, each from one synchronization
with the card to the next. Attention and norms are TransformerEngine's where that is installed (as
in NVIDIA's container), else torch's own. The defaults take minutes on one H100 or larger.

The ceiling is ``torch.matmul`` of two square matrices of ``--matmul`` rows in the same precision:
the median of ten before and ten after each stack.

Model FLOPs of a token are those of ``granite41 plan``; norms, rotary embeddings, softmax and
recomputation count nothing. Memory is the peak that torch has allocated from the model's building
to the last step, and the plan's is :func:`recipes.spec.memory.estimate` of the same recipe.

Without CUDA the same script runs on the CPU in fp32 with a tiny shape, and its memory is the
process's growth; its figures then say nothing about a GPU.
"""

import argparse
import gc
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli import report

from recipes.planning.costs import flops_per_token
from recipes.planning.hardware import gpu
from recipes.registry.resolve import resolve_pretraining
from recipes.spec.memory import estimate

WARM_UP_STEPS = 2
MATMULS = 10
COLUMNS = [
    "stack",
    "step, ms",
    "tokens/s",
    "TFLOP/s",
    "matmul, TFLOP/s",
    "of matmul, %",
    "of peak, %",
    "memory, GB",
    "planned, GB",
    "planned/measured",
]


@dataclass(frozen=True)
class Stack:
    """What is measured: some layers of a size at a length."""

    size: str
    layers: int
    length: int

    def overrides(self, options: argparse.Namespace) -> list[str]:
        """Return it as overrides of phase 1's recipe on one GPU."""
        batch = options.micro_batch_size * options.micro_batches
        return [
            f"model.num_layers={self.layers}",
            f"sequence_length={self.length}",
            f"global_batch_size={batch}",
            "parallelism.gpus=1",
            "parallelism.tensor_model_parallel_size=1",
            "parallelism.pipeline_model_parallel_size=1",
            "parallelism.context_parallel_size=1",
            f"parallelism.micro_batch_size={options.micro_batch_size}",
        ]


def timed(function: Callable) -> float:
    """Return the seconds until everything that ``function`` asks of the device is done."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_speeds(rows: int, dtype: object) -> list[float]:
    """Return FLOP/s of ``MATMULS`` multiplications of two ``rows`` x ``rows`` matrices, after some
    that warm up.
    """
    import torch

    a, b, out = (torch.randn(rows, rows, device="cuda").to(dtype) for _ in range(3))
    seconds = [timed(lambda: torch.matmul(a, b, out=out)) for _ in range(WARM_UP_STEPS + MATMULS)]
    return [2 * rows**3 / taken for taken in seconds[WARM_UP_STEPS:]]


class Trainer:
    """A stack as Megatron-Core trains it, in this process."""

    def __init__(self, stack: Stack, options: argparse.Namespace) -> None:
        import fiddle
        import torch
        from megatron.core.distributed import DistributedDataParallel
        from megatron.core.optimizer import get_megatron_optimizer
        from megatron.core.transformer.module import Float16Module

        from recipes.training.pretraining import pretraining_recipe

        cuda = torch.cuda.is_available()
        self.micro_batches = options.micro_batches
        overrides = stack.overrides(options)
        recipe = pretraining_recipe(
            "phase1", stack.size, overrides, folder="", data=[], tokenizer=""
        )
        config = fiddle.build(recipe.model.config)
        optimizer = fiddle.build(recipe.optim.config)
        buffers = fiddle.build(recipe.trainer.strategy.ddp)
        # there is nothing to overlap with on one card
        buffers.overlap_grad_reduce = False
        buffers.overlap_param_gather = False
        dtype = torch.bfloat16 if cuda else torch.float32
        config.bf16 = cuda
        config.params_dtype = dtype
        optimizer.bf16 = cuda
        optimizer.params_dtype = dtype

        model = config.configure_model().cuda()
        if cuda:
            model = Float16Module(config, model)
        self.model = DistributedDataParallel(config, buffers, model)
        self.optimizer = get_megatron_optimizer(
            optimizer, [self.model], use_gloo_process_groups=False
        )
        shape = (options.micro_batch_size, stack.length + 1)
        self.tokens = torch.randint(config.vocab_size, shape, device="cuda")
        positions = torch.arange(stack.length, device="cuda")
        self.positions = positions.expand(options.micro_batch_size, -1)

    def step(self) -> None:
        """Train one step."""
        from megatron.core.distributed import finalize_model_grads

        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        inputs = self.tokens[:, :-1]
        labels = self.tokens[:, 1:]
        for _ in range(self.micro_batches):
            losses = self.model(inputs, self.positions, None, labels=labels)
            (losses.mean() / self.micro_batches).backward()
        finalize_model_grads([self.model])
        self.optimizer.step()


def used_bytes() -> int:
    """Return the most memory that was used: of the card, or else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return 1024 * int(peak.split()[1])


def reset_peak() -> int:
    """Forget the peak so far, and return what is in use."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # see proc(5): the peak becomes what is in use now
    Path("/proc/self/clear_refs").write_text("5")
    return used_bytes()


def measure(stack: Stack, options: argparse.Namespace, peak_flops: float) -> list[str]:
    """Train a stack and return its row of the table."""
    import torch

    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    speeds = matmul_speeds(options.matmul, dtype)
    before = reset_peak()
    trainer = Trainer(stack, options)
    seconds = [timed(trainer.step) for _ in range(WARM_UP_STEPS + options.steps)]
    memory = used_bytes() - before
    del trainer
    reset_peak()
    speeds += matmul_speeds(options.matmul, dtype)

    recipe = resolve_pretraining("phase1", stack.size, stack.overrides(options))
    per_token = sum(figure.value for figure in flops_per_token(recipe.model, stack.length).values())
    step = statistics.median(seconds[WARM_UP_STEPS:])
    tokens = options.micro_batches * options.micro_batch_size * stack.length / step
    reached = tokens * per_token
    ceiling = statistics.median(speeds)
    planned = estimate(recipe).total
    return [
        f"{stack.size} {stack.layers} x {stack.length}",
        f"{1e3 * step:,.1f}",
        f"{tokens:,.0f}",
        f"{reached / 1e12:.4g}",
        f"{ceiling / 1e12:.4g}",
        f"{100 * reached / ceiling:.3g}",
        f"{100 * reached / peak_flops:.3g}",
        f"{memory / 1e9:.3g}",
        f"{planned / 1e9:.3g}",
        f"{planned / memory:.3g}",
    ]


def known_gpu(name: str) -> str:
    """Return the name of the plan's GPU that a card is."""
    for known in ("gb200", "b200", "h200", "h100"):
        if known in name.lower():
            return known
    return "cpu"


def parse(cuda: bool) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = ["3b", "8b", "30b"] if cuda else ["tiny"]
    lengths = [4096, 16384] if cuda else [64]
    parser.add_argument("--sizes", nargs="+", default=sizes, help="all on a GPU, tiny on a CPU")
    parser.add_argument("--layers", type=int, default=4 if cuda else 2)
    parser.add_argument("--sequence-lengths", type=int, nargs="+", default=lengths)
    parser.add_argument("--micro-batch-size", type=int, default=1, help="in sequences (1)")
    parser.add_argument("--micro-batches", type=int, default=4, help="of a step (4)")
    parser.add_argument("--steps", type=int, default=5, help="that are measured (5)")
    parser.add_argument(
        "--matmul", type=int, default=8192 if cuda else 512, help="rows of the square matrices"
    )
    return parser.parse_args()


def main() -> None:
    """Run the measurements and print their figures."""
    # the CPU backend must be on before anything of Megatron runs
    from recipes.model.granite import HAVE_TRANSFORMER_ENGINE  # isort: skip
    import torch
    from megatron.core import parallel_state, tensor_parallel

    cuda = torch.cuda.is_available()
    options = parse(cuda)
    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    tensor_parallel.model_parallel_cuda_manual_seed(1234)

    name = torch.cuda.get_device_name() if cuda else platform.machine()
    processor = gpu(known_gpu(name) if cuda else "cpu")
    rows = []
    for size, length in itertools.product(options.sizes, options.sequence_lengths):
        rows.append(measure(Stack(size, options.layers, length), options, processor.flops))
    report(
        COLUMNS,
        rows,
        name,
        f"peak of {processor.name}",
        "bf16" if cuda else "fp32",
        f"torch {torch.__version__}",
        "TransformerEngine" if HAVE_TRANSFORMER_ENGINE else "no TransformerEngine",
        f"{torch.get_num_threads()} torch threads",
    )
    if not cuda:
        print("no CUDA here: these are a CPU's figures, they only show that the script runs")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
