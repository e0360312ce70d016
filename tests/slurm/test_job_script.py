"""What surrounds a job's command, where the local Slurm cannot have such nodes."""

import json
import subprocess
from pathlib import Path

import pytest

JOB_SH = Path(__file__).parents[2] / "slurm/job.sh"


def _run(folder: Path, lines: str, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run lines after ``job.sh``, with these programs in place of Slurm's."""
    (folder / "bin").mkdir()
    programs = {"squeue": "date -d '1 hour' +%FT%T", **programs}
    for name, script in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    variables = {
        "PATH": f"{folder}/bin:/usr/bin:/bin",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "granite41_records": str(folder / "records"),
        "granite41_stage": "",
        "granite41_progress": "",
        "granite41_retries": "3",
    }
    script = f". {JOB_SH}\n{lines}\n"
    command = ["bash", "-c", script]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)


def _events(folder: Path) -> list[str]:
    lines = (folder / "records/events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_the_first_node_has_one_address(tmp_path) -> None:
    # a node is listed for each of its partitions
    programs = {"scontrol": "printf 'n1\\nn2\\n'", "sinfo": "printf '127.0.0.1  \\n127.0.0.1  \\n'"}
    done = _run(tmp_path, 'granite41_find_head; echo "[$granite41_head_address]"', **programs)
    assert done.stdout == "[127.0.0.1]\n"


def test_a_first_node_whose_address_does_not_resolve_ends_the_job(tmp_path) -> None:
    programs = {"scontrol": "printf 'n1\\nn2\\n'", "sinfo": "echo nowhere.invalid"}
    done = _run(tmp_path, "granite41_find_head; echo not reached", **programs)
    assert done.returncode == 2
    assert done.stdout.startswith("granite41: n1: its address nowhere.invalid does not resolve on ")
    assert "not reached" not in done.stdout
    assert _events(tmp_path) == ["started", "failed"]


def test_a_start_without_an_end_is_recorded_as_lost_by_the_next(tmp_path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    started = {"time": 1, "event": "started", "job": 7, "start": 0, "nodes": "n1"}
    (records / "events.jsonl").write_text(json.dumps(started) + "\n")
    assert _run(tmp_path, "exit 0").returncode == 0
    assert _events(tmp_path) == ["started", "lost", "started", "finished"]


@pytest.mark.parametrize("variable", ["PYTHONPATH", "LD_LIBRARY_PATH"])
def test_the_paths_of_the_submitting_shell_are_left_behind(tmp_path, variable) -> None:
    line = f'export {variable}=/somewhere; . {JOB_SH}; echo "[${variable}] $PYTHONNOUSERSITE"'
    assert _run(tmp_path, line).stdout == "[] 1\n"


def test_srun_gets_the_cpus_of_the_job(tmp_path) -> None:
    line = f"SLURM_CPUS_PER_TASK=12; . {JOB_SH}; env | grep SRUN"
    assert _run(tmp_path, line).stdout == "SRUN_CPUS_PER_TASK=12\n"
