"""``granite41 train`` in processes of its own, with a fault at a chosen point, and what a stage
leaves behind.
"""

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.helpers import preloaded

# 8 steps of 2 micro-batches; checkpoints after 3 and 6 and at the end, validations after 2, 4, 6
# and 8
STEPS, SEQUENCES = 8, 4
SETTINGS = [
    "model.vocab_size=512",
    "model.num_layers=1",
    "sequence_length=64",
    f"global_batch_size={SEQUENCES}",
    "parallelism.micro_batch_size=2",
    "tokens=2048",
    "schedule.warmup_tokens=512",
    "checkpoint_every_tokens=768",
    "validate_every_tokens=512",
    "validation_batches=2",
    "split=900,100,0",
]


def command(run_folder: Path, data: Path, *overrides: str) -> list[str]:
    """The words of the command line that trains phase 1."""
    where = ["--run-dir", str(run_folder), "--data", str(data)]
    return ["granite41", "train", "phase1", "--size", "tiny", *where, *SETTINGS, *overrides]


class Ended:
    """How the ranks of a run ended: exit codes (negative for a signal), and what they wrote."""

    def __init__(self, ranks: list[Any], output: Path) -> None:
        self.ranks = ranks
        for rank in ranks:
            rank.join()
        self.codes = [rank.exitcode for rank in ranks]
        self.output, self.errors = output.read_text(), output.with_suffix(".errors").read_text()

    def clean(self) -> None:
        """End what the ranks left running."""
        for rank in self.ranks:
            try:
                os.killpg(rank.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def run(
    words: list[str], *faults: Callable[[], Any], world_size: int = 1, clean: bool = True
) -> Ended:
    """Run the command line ``words`` with ``faults`` built in, until it ends."""
    output = Path(words[words.index("--run-dir") + 1]).with_suffix(".output")
    output.write_text("")
    output.with_suffix(".errors").write_text("")
    ended = Ended(
        preloaded.start(_command_line, words, output, faults, world_size=world_size), output
    )
    if clean:
        ended.clean()
    return ended


def _command_line(words: list[str], output: Path, faults: tuple[Callable[[], Any], ...]) -> None:
    from recipes.cli.main import main

    os.setpgrp()
    # so small a model gains nothing by a second thread
    torch.set_num_threads(1)
    for number, path in ((1, output), (2, output.with_suffix(".errors"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    for fault in faults:
        fault()
    sys.argv = words
    main()


def record_samples(path: Path) -> None:
    """Append the number of each training sample that is drawn to ``path``."""
    from recipes.training.data import GraniteDataModule

    build = GraniteDataModule.build

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self._train_ds = _Recorded(self._train_ds, path)

    mock.patch.object(GraniteDataModule, "build", recorded).start()


class _Recorded(torch.utils.data.Dataset):
    def __init__(self, samples: Any, path: Path) -> None:
        self.samples, self.file = samples, path.open("a", buffering=1)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        self.file.write(f"{int(index)}\n")
        return self.samples[index]


def read_in_a_worker() -> None:
    """Have a process of its own read the data, as on a machine with GPUs."""
    from recipes.training.data import GraniteDataModule

    workers = property(lambda self: 1, lambda self, number: None)
    mock.patch.object(GraniteDataModule, "num_workers", workers, create=True).start()


def send(step: int, signum: int, *, rank: int = 0, to_group: bool = False, times: int = 1) -> None:
    """Send a signal to this process, or to all that it has started too, in the middle of ``step``,
    on ``rank``.
    """
    if os.environ["RANK"] == str(rank):
        target = (
            partial(os.killpg, 0, signum) if to_group else partial(os.kill, os.getpid(), signum)
        )
        _in_step(step, lambda: [target() for _ in range(times)])


def _in_step(step: int, act: Callable[[], Any]) -> None:
    """Call ``act`` in the forward pass of the last micro-batch of ``step``."""
    from megatron.core.models.gpt import GPTModel

    from recipes.training.callbacks import StageProgress

    batch_start, forward, running = StageProgress.on_train_batch_start, GPTModel.forward, []

    def starting(self: Any, trainer: Any, *args: Any) -> None:
        running[:] = [trainer.global_step + 1]
        batch_start(self, trainer, *args)

    def passing(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = forward(self, *args, **kwargs)
        if self.training and running[0] == step:
            running.append(step)
            if len(running) == SEQUENCES // 2 // int(os.environ["WORLD_SIZE"]) + 1:
                act()
        return result

    mock.patch.object(StageProgress, "on_train_batch_start", starting).start()
    mock.patch.object(GPTModel, "forward", passing).start()


def kill_when(owner: str, name: str, step: int = 0) -> None:
    """Kill this process in the place of a call of ``owner``'s ``name``, the one that comes at or
    after ``step``.
    """
    from recipes.training.callbacks import StageProgress

    steps: list[int] = [0]
    batch_end = StageProgress.on_train_batch_end

    def ending(self: Any, trainer: Any, *args: Any) -> None:
        steps.append(trainer.global_step)
        batch_end(self, trainer, *args)

    mock.patch.object(StageProgress, "on_train_batch_end", ending).start()
    target = mock.patch(f"{owner}.{name}").get_original()[0]

    def killing(*args: Any, **kwargs: Any) -> Any:
        if steps[-1] >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return target(*args, **kwargs)

    mock.patch(f"{owner}.{name}", killing).start()


def in_write(step: int, act: Callable[[Any, int], Any]) -> None:
    """Call ``act`` in each process that writes weights of ``step``'s checkpoint, after its first
    tensor.

    Its arguments are the open file and the id of the process that trains.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    write_item, trainer = filesystem_async._write_item, os.getpid()

    # Megatron looks at the signature
    @functools.wraps(write_item)
    def writing(transforms: Any, stream: Any, *args: Any, **kwargs: Any) -> Any:
        result = write_item(transforms, stream, *args, **kwargs)
        if f"step={step - 1:08d}" in str(stream.name):
            act(stream, trainer)
        return result

    mock.patch.object(filesystem_async, "_write_item", writing).start()


def kill_trainer(stream: Any, trainer: int) -> None:
    """Kill the process that trains; this one, which it forked, stays."""
    stream.flush()
    os.kill(trainer, signal.SIGKILL)
    time.sleep(600)


def fill(stream: Any, trainer: int) -> None:
    """Fail as a write to a full disk does."""
    raise OSError(28, os.strerror(28), stream.name)


def no_repeats_apart() -> None:
    """Take every further signal for a second one."""
    mock.patch("recipes.training.stop_request.REPEATED_SECONDS", 0).start()


def lines(run_folder: Path) -> list[dict[str, Any]]:
    """What the metrics hold of every step and validation, without the speed."""
    read = [
        json.loads(line)
        for line in (run_folder / "phase1/metrics/steps.jsonl").read_text().splitlines()
    ]
    return [
        {name: value for name, value in line.items() if name != "tokens_per_second"}
        for line in read
    ]


def manifest(run_folder: Path) -> dict[str, Any]:
    """The stage's manifest."""
    return json.loads((run_folder / "phase1/manifest.json").read_text())


def checkpoints(run_folder: Path) -> list[str]:
    """Names in the folder of checkpoints."""
    return sorted(path.name for path in (run_folder / "phase1/checkpoints").iterdir())


def state(run_folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the final checkpoint: weights and Adam's moments."""
    from torch.distributed.checkpoint import FileSystemReader, load

    reader = FileSystemReader(
        run_folder / "phase1" / manifest(run_folder)["checkpoint"] / "weights"
    )
    found = reader.read_metadata().state_dict_metadata
    tensors = {
        key: torch.empty(tuple(entry.size))
        for key, entry in found.items()
        if getattr(entry, "size", ())
    }
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors
