"""A stage that is stopped, killed, or out of disk goes on as if nothing had been: same losses,
weights and samples.
"""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from recipes.common.errors import UserError
from recipes.runs.stage_folder import latest_checkpoint, locked
from recipes.runs.stage_manifest import StageManifest, read_manifest
from recipes.training import run as training
from recipes.training import stage_record
from tests.helpers.manifests import stage_manifest, write_stage_manifest
from tests.helpers.resuming import (
    SEQUENCES,
    SETTINGS,
    STEPS,
    checkpoints,
    command,
    fill,
    in_write,
    kill_trainer,
    kill_when,
    lines,
    manifest,
    no_repeats_apart,
    read_in_a_worker,
    record_samples,
    run,
    send,
    state,
)
from tests.helpers.training import train

pytestmark = pytest.mark.slow

# NeMo names a checkpoint by the number of steps before its own
SAVED = {step: f"step={step - 1:08d}" for step in range(1, STEPS + 1)}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The stage, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = run(command(folder, data), partial(record_samples, folder.with_suffix(".samples")))
    assert ended.codes == [0], ended.errors
    return folder


def assert_same(run_folder: Path, whole: Path) -> None:
    assert lines(run_folder) == lines(whole)
    found, expected = state(run_folder), state(whole)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
    one, other = manifest(run_folder), manifest(whole)
    assert other["status"] == "finished"
    for key in (
        "status",
        "checkpoint",
        "validation_loss",
        "unigram_entropy",
        "data_progress",
        "tokens",
        "data",
    ):
        assert one[key] == other[key], key
    assert latest_checkpoint(run_folder / "phase1").name == SAVED[STEPS]


def samples(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


def test_the_settings_have_every_case(whole) -> None:
    assert [line["step"] for line in lines(whole) if "loss" in line] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines(whole) if "val_loss" in line] == [2, 4, 6, 8]
    drawn = samples(whole.with_suffix(".samples"))
    assert len(drawn) == len(set(drawn)) == STEPS * SEQUENCES


def test_an_allocation_around_the_command_changes_nothing(
    data, whole, tmp_path, monkeypatch
) -> None:
    # as in a shell that salloc gives, or a notebook of JupyterHub
    allocation = {
        "JOB_ID": "123456",
        "JOB_NAME": "jupyterhub",
        "NNODES": "2",
        "NTASKS": "4",
        "NTASKS_PER_NODE": "2",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
    }
    for name, value in allocation.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    ended = run(command(tmp_path / "run", data))
    assert ended.codes == [0], ended.errors
    assert_same(tmp_path / "run", whole)


def test_a_signal_stops_after_the_step_with_a_checkpoint(data, whole, tmp_path) -> None:
    folder = tmp_path / "run"
    words = command(folder, data)
    # what a launcher does: the signal goes to all processes, and twice
    ended = run(words, partial(send, 5, signal.SIGTERM, to_group=True, times=2))
    assert ended.codes == [128 + signal.SIGTERM], ended.errors
    sentence = (
        "phase1: stopped after step 5 by SIGTERM, checkpoint saved; the same command continues"
    )
    assert sentence in ended.errors.splitlines()
    assert manifest(folder)["status"] == "stopped"
    assert latest_checkpoint(folder / "phase1").name == SAVED[5]
    assert "| phase1 | stopped |" in (folder / "report.md").read_text()
    first = manifest(folder)["seconds"]

    # at a checkpoint's step nothing is saved twice, and its validation is left to the next start
    ended = run(words, partial(send, 6, signal.SIGINT))
    assert ended.codes == [128 + signal.SIGINT], ended.errors
    assert "phase1: continues after step 5" in ended.errors
    assert "stopped after step 6 by SIGINT" in ended.errors
    assert checkpoints(folder) == [SAVED[3], SAVED[5], SAVED[6]]
    assert lines(folder)[-1].keys() != {"step", "val_loss"}
    assert manifest(folder)["seconds"] > first > 0

    ended = run(words)
    assert ended.codes == [0], ended.errors
    assert manifest(folder)["num_starts"] == 3
    assert_same(folder, whole)
    assert checkpoints(folder) == [SAVED[5], SAVED[6], SAVED[8]]


def test_what_reads_the_data_goes_on_until_the_stop(data, whole, tmp_path) -> None:
    folder = tmp_path / "run"
    ended = run(
        command(folder, data), read_in_a_worker, partial(send, 5, signal.SIGTERM, to_group=True)
    )
    assert ended.codes == [128 + signal.SIGTERM], ended.errors
    assert "phase1: stopped after step 5 by SIGTERM" in ended.errors
    assert run(command(folder, data), read_in_a_worker).codes == [0]
    assert_same(folder, whole)


def test_the_same_signal_again_ends_the_process_at_once(data, tmp_path) -> None:
    ended = run(
        command(tmp_path / "run", data), no_repeats_apart, partial(send, 2, signal.SIGTERM, times=2)
    )
    assert ended.codes == [-signal.SIGTERM]
    assert manifest(tmp_path / "run")["status"] == "running"
    assert not (tmp_path / "run/phase1/checkpoints").exists()


def test_all_ranks_stop_after_the_same_step(data, tmp_path) -> None:
    folder = tmp_path / "run"
    ended = run(command(folder, data), partial(send, 2, signal.SIGTERM, rank=1), world_size=2)
    assert ended.codes == [128 + signal.SIGTERM] * 2, ended.errors
    assert ended.errors.count("stopped after step 2 by SIGTERM") == 1
    assert manifest(folder)["status"] == "stopped"
    assert checkpoints(folder) == [SAVED[2]]
    assert latest_checkpoint(folder / "phase1").name == SAVED[2]


def test_kills_and_a_failed_write_leave_no_trace(data, whole, tmp_path, request) -> None:
    folder, words = tmp_path / "run", command(tmp_path / "run", data)
    drawn = samples(whole.with_suffix(".samples"))

    def killed(number: int, fault: partial, clean: bool = True) -> str:
        path = tmp_path / f"{number}.samples"
        ended = run(words, fault, partial(record_samples, path), clean=clean)
        request.addfinalizer(ended.clean)
        assert ended.codes == [-signal.SIGKILL], ended.errors
        assert manifest(folder)["status"] == "running"
        assert latest_checkpoint(folder / "phase1").name == SAVED[3]
        begin = 0 if number == 1 else 3 * SEQUENCES
        assert samples(path) == drawn[begin : begin + len(samples(path))]
        return ended.errors

    killed(1, partial(send, 5, signal.SIGKILL))
    # the processes that write a checkpoint outlive the one that trains, and hold no lock
    assert "continues after step 3" in killed(2, partial(in_write, 6, kill_trainer), clean=False)
    torn = folder / "phase1/checkpoints" / SAVED[6]
    assert torn.with_name(torn.name + "-unfinished").exists()
    assert any(file.stat().st_size for file in (torn / "weights").glob("*__0_*"))
    assert not (torn / "weights/.metadata").exists()
    # all is written, and NeMo's mark not yet taken away
    logger = "lightning.pytorch.loggers.TensorBoardLogger"
    assert "continues after step 3" in killed(
        3, partial(kill_when, logger, "after_save_checkpoint", 6)
    )
    assert torn.with_name(torn.name + "-unfinished").exists()
    assert (torn / "weights/metadata.json").exists() and (torn / "context").exists()
    check_full(run(words, partial(in_write, 6, fill)), folder, SAVED[3])
    ended = run(words, partial(record_samples, tmp_path / "5.samples"))
    assert ended.codes == [0], ended.errors
    assert samples(tmp_path / "5.samples") == drawn[3 * SEQUENCES :]
    assert_same(folder, whole)
    assert checkpoints(folder) == [SAVED[3], SAVED[6], SAVED[8]]
    assert manifest(folder)["num_starts"] == 5


def test_kills_at_the_end_of_a_stage(data, whole, tmp_path) -> None:
    folder, words = tmp_path / "run", command(tmp_path / "run", data)
    ended = run(
        words,
        partial(kill_when, "recipes.training.callbacks.StageProgress", "on_validation_end", STEPS),
    )
    assert ended.codes == [-signal.SIGKILL], ended.errors
    assert lines(folder)[-1]["step"] == STEPS
    # a last checkpoint without its validation would have nothing left to do
    assert latest_checkpoint(folder / "phase1").name == SAVED[6]
    ended = run(words, partial(kill_when, "recipes.training.run", "unigram_entropy"))
    assert ended.codes == [-signal.SIGKILL], ended.errors
    assert manifest(folder)["status"] == "running"
    assert latest_checkpoint(folder / "phase1").name == SAVED[STEPS]
    # as a kill between a save and the removal of the oldest checkpoint leaves it
    shutil.copytree(
        folder / "phase1/checkpoints" / SAVED[3], folder / "phase1/checkpoints" / SAVED[2]
    )
    ended = run(words)
    assert ended.codes == [0], ended.errors
    assert_same(folder, whole)
    assert checkpoints(folder) == [SAVED[3], SAVED[6], SAVED[8]]


def test_a_signal_in_the_last_step_does_not_keep_the_stage_from_its_end(data, tmp_path) -> None:
    folder = tmp_path / "run"
    ended = run(command(folder, data, "tokens=256"), partial(send, 1, signal.SIGTERM))
    assert ended.codes == [0], ended.errors
    assert checkpoints(folder) == [SAVED[1]]
    done = manifest(folder)
    assert (done["status"], done["checkpoint"]) == ("finished", f"checkpoints/{SAVED[1]}")
    assert done["validation_loss"] == lines(folder)[-1]["val_loss"]
    assert done["data_progress"]


def check_full(ended, folder: Path, last: str) -> None:
    assert ended.codes == [2], ended.errors
    sentence = (
        f"{folder / 'phase1'}: no space left on the device, the last whole checkpoint is {last}; "
        f"free some, the same command continues"
    )
    assert ended.errors.splitlines()[-1] == f"granite41: {sentence}"
    assert "Traceback" not in ended.errors
    assert latest_checkpoint(folder / "phase1").name == last
    assert [
        name for name in checkpoints(folder) if name > last and not name.endswith("-unfinished")
    ] == []
    assert (manifest(folder)["status"], manifest(folder)["error"]) == ("failed", sentence)


def test_a_full_disk(data, whole, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(file.stat().st_size for file in (whole / "phase1").rglob("*") if file.is_file())
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    try:
        folder, words = disk / "run", command(disk / "run", data)
        check_full(run(words), folder, SAVED[3])
        subprocess.run(["mount", "-o", f"remount,size={size * 2}", str(disk)], check=True)
        assert run(words).codes == [0]
        assert_same(folder, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_that_does_not_hold_the_manifest_either(
    data, tmp_path, monkeypatch, number
) -> None:
    write = stage_record.write_manifest

    def first_only(folder: Path, content: StageManifest) -> None:
        if content.status != "running":
            raise OSError(number, os.strerror(number))
        write(folder, content)

    def fail(*_: object) -> None:
        # as Megatron passes on what a process that writes raised
        raise RuntimeError(f"Worker failure: [Errno {number}] {os.strerror(number)}")

    monkeypatch.setattr(stage_record, "write_manifest", first_only)
    monkeypatch.setattr(training, "fit", fail)
    with pytest.raises(
        UserError, match="no space left on the device, the last whole checkpoint is none; free some"
    ):
        train("phase1", "tiny", tmp_path, data, SETTINGS)
    assert manifest(tmp_path)["status"] == "running"


def hold(folder: Path, connection: multiprocessing.connection.Connection) -> None:
    with locked(folder):
        connection.send(os.getpid())
        connection.recv()


def test_a_second_run_is_refused_and_a_killed_one_is_not_in_the_way(
    data, tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "phase1"
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=(folder, theirs))
    holder.start()
    pid = ours.recv()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(
        UserError,
        match=rf"phase1: process {pid} on {os.uname().nodename} trains in this folder; wait",
    ):
        train("phase1", "tiny", tmp_path, data, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    holder.kill()
    holder.join()

    def stop(*_: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(training, "fit", stop)
    with pytest.raises(SystemExit):
        train("phase1", "tiny", tmp_path, data, SETTINGS)
    assert manifest(tmp_path)["num_starts"] == 1


def test_a_stage_that_another_process_has_just_trained_is_looked_at_again(
    data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(
        training, "check_loader", lambda _: (tmp_path / "phase1").mkdir() or _another(tmp_path)
    )
    with pytest.raises(
        UserError, match="another process trained in this folder until just now; run again"
    ):
        train("phase1", "tiny", tmp_path, data, SETTINGS)
    assert read_manifest(tmp_path / "phase1") == stage_manifest()


def _another(run_folder: Path) -> None:
    write_stage_manifest(run_folder / "phase1")
