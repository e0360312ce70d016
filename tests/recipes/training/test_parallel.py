"""Two processes over gloo continue a checkpoint of one process with the same losses, however the
model is split.
"""

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# 4 steps of 8 sequences of 64 tokens, a checkpoint after each second one
SETTINGS = [
    "model.vocab_size=512",
    "sequence_length=64",
    "global_batch_size=8",
    "tokens=2048",
    "schedule.warmup_tokens=512",
    "checkpoint_every_tokens=1024",
    "validation_batches=1",
    "parallelism.micro_batch_size=2",
]


def _train(
    folder: Path, data: Path, overrides: list[str], checkpoint: Path | None = None, devices: int = 1
) -> None:
    import fiddle

    from recipes.training.pretraining import pretraining_recipe

    built = pretraining_recipe(
        "phase1",
        "tiny",
        [*SETTINGS, *overrides],
        folder=str(folder),
        data=[str(data / "text")],
        tokenizer=str(data / "tokenizer"),
        index_cache=str(data / "index"),
        devices=devices,
    )
    if checkpoint:
        built.resume.resume_from_path = str(checkpoint)
    fiddle.build(built)()


def _losses(folder: Path) -> dict[int, float]:
    lines = [
        json.loads(line) for line in (folder / "metrics" / "steps.jsonl").read_text().splitlines()
    ]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="session")
def one_process(forked, data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one_process")
    forked(_train, folder, data, [])
    return folder


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallelism.tensor_model_parallel_size=2"],
        ["parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=false"],
        ["parallelism.pipeline_model_parallel_size=2"],
        ["parallelism.context_parallel_size=2"],
        [],
    ],
    ids=["tensor and sequence", "tensor", "pipeline", "context", "data"],
)
def test_two_processes_give_the_losses_of_one(
    forked, data, one_process, tmp_path, overrides
) -> None:
    expected = _losses(one_process)
    assert sorted(expected) == [1, 2, 3, 4]
    checkpoint = min((one_process / "checkpoints").glob("step=*"))
    forked(_train, tmp_path / "two", data, overrides, checkpoint, 2, world_size=2)
    losses = _losses(tmp_path / "two")
    assert sorted(losses) == [3, 4]
    assert losses == pytest.approx({step: expected[step] for step in (3, 4)}, abs=1e-4)


def test_a_resumed_process_repeats_the_losses_exactly(forked, data, one_process, tmp_path) -> None:
    checkpoint = min((one_process / "checkpoints").glob("step=*"))
    shutil.copytree(one_process / "metrics", tmp_path / "again" / "metrics")
    forked(_train, tmp_path / "again", data, [], checkpoint)
    # the lines of steps 3 and 4 were dropped and written again
    assert _losses(tmp_path / "again") == _losses(one_process)
