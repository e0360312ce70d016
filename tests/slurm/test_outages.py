"""Chains on a real Slurm whose controller, accounting or nodes are not as a job needs them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.results import read_evaluation
from recipes.runs.task import Task
from tests.helpers.eval_models import write_model
from tests.helpers.slurm_site import TOKENS_PER_STEP, Site, submit_tasks

pytestmark = pytest.mark.slurm

LIST = ("list", "--json")
# an interpreter without this project's requirements
BARE_PYTHON = "/usr/bin/python3"
MANY_STEPS = f"tokens={8000 * TOKENS_PER_STEP}"


def _replace_program(site: Site, folder: Path, name: str, script: str) -> None:
    """Put a program in front of one of Slurm's in the shell of the site's user."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    site.shell["PATH"] = f"{folder}:{site.shell['PATH']}"


def test_a_requeue_waits_for_the_controller(site, data) -> None:
    site.write({"compute": {"time_limit": "00:01:00"}, "stop_before_limit": 40})
    ids = site.submit(data, MANY_STEPS)
    site.wait_for_step(10)
    site.cluster.kill_controller()
    try:
        site.wait(lambda: "it is asked again: Unexpected message" in site.batch_log("phase1"))
    finally:
        site.cluster.start_controller()

    site.wait_for_start(2)
    assert site.events("phase1") == ["started", "stopped", "started"]
    assert site.cluster.state(ids["phase1-export"]) == "PENDING"


def test_a_requeue_that_is_refused_is_recorded(site, data) -> None:
    site.write({"compute": {"time_limit": "00:01:00"}, "stop_before_limit": 40})
    ids = site.submit(data, MANY_STEPS)
    site.wait_for_step(10)
    site.cluster.run("scontrol", "update", f"jobid={ids['phase1']}", "requeue=0")
    site.wait_for(ids["phase1"], "FAILED")
    assert site.events("phase1") == ["started", "stopped", "requeue refused"]
    reason = site.status()["phase1"]["reason"]
    assert reason.startswith("Slurm did not queue the job again (")
    assert "`granite41 resume` continues" in reason


def test_status_speaks_from_the_accounting_while_the_controller_is_away(site, forked) -> None:
    ids = forked(submit_tasks, [Task("one", LIST)], site.file, site.run_folder)
    site.wait_for(ids["one"], "COMPLETED")
    site.cluster.kill_controller()
    try:
        done = site.run("status", *site.flags)
        refusal = site.refusal("run", "phase1", "--size", "tiny", "--on", site.file, *site.flags)
    finally:
        site.cluster.start_controller()
    assert "COMPLETED" in done.stdout
    assert "squeue does not answer (" in done.stderr
    assert "states are those of the accounting" in done.stderr
    # the controller's sentence, and not the frame of stars that follows it
    assert "is DOWN" in refusal
    assert "*" not in refusal


def test_a_controller_that_goes_away_in_the_middle_of_a_submission(site, data, tmp_path) -> None:
    calls = tmp_path / "calls"
    ended = tmp_path / "ended"
    # the second job finds no controller any more
    script = f"""\
echo >> {calls}
if [ "$(wc -l < {calls})" = 2 ]; then scontrol shutdown slurmctld; sleep 1; fi
/usr/bin/sbatch "$@"
status=$?
echo $status >> {ended}
exit $status"""
    _replace_program(site, tmp_path / "bin", "sbatch", script)
    command = [sys.executable, "-m", "recipes.cli", *map(str, site.phase1(data))]
    submission = subprocess.Popen(command, env=site.shell, stderr=subprocess.PIPE, text=True)
    try:
        site.wait(lambda: ended.exists() and ended.read_text().count("\n") == 2)
        site.cluster.wait_for_controller_end()
    finally:
        site.cluster.start_controller()
    _, error = submission.communicate(timeout=180)
    assert submission.returncode == 2, error
    assert "sbatch refused a job, the 1 before it were cancelled: " in error
    site.wait_for_empty_queue()
    assert not (site.run_folder / "slurm/submitted.json").exists()


def test_without_accounting_the_queue_and_the_records_are_the_status(
    site, forked, tmp_path
) -> None:
    ids = forked(submit_tasks, [Task("one", LIST)], site.file, site.run_folder)
    site.wait_for(ids["one"], "COMPLETED")
    _replace_program(site, tmp_path / "bin", "sacct", "echo 'no slurmdbd' >&2; exit 1")
    assert site.status()["one"]["state"] == "COMPLETED"


def test_a_partition_that_has_vanished_is_named(site, data) -> None:
    site.cluster.run("scontrol", "create", "partitionname=extra", "nodes=ALL")
    site.write({"compute": {"partition": "extra"}})
    ids = site.submit(data, MANY_STEPS)
    site.run("cancel", *site.flags)
    site.wait_for(ids["phase1"], "CANCELLED")
    site.wait_for_empty_queue()
    site.cluster.run("scontrol", "delete", "partitionname=extra")
    refusal = site.refusal("resume", *site.flags)
    assert "compute.partition: no extra, expected one of batch, " in refusal
    assert site.queue_is_empty()


def test_a_module_that_does_not_exist_ends_the_job(site, forked) -> None:
    site.write({"modules": ["nothing/1"]})
    ids = forked(submit_tasks, [Task("one", LIST)], site.file, site.run_folder)
    site.wait_for(ids["one"], "FAILED")
    assert "module load nothing/1 failed on " in site.status()["one"]["reason"]
    assert site.events("one") == ["started", "failed"]

    checked = site.run("cluster", "check", site.file, status=1).stderr
    assert "compute.node FAILED: module load nothing/1 failed" in checked


def test_an_interpreter_without_the_requirements(site, forked) -> None:
    site.write({"python": BARE_PYTHON, "environment": {}})
    ids = forked(submit_tasks, [Task("one", LIST)], site.file, site.run_folder)
    site.wait_for(ids["one"], "FAILED")
    reason = site.status()["one"]["reason"]
    assert reason.startswith(f"{BARE_PYTHON} on ")
    assert "lacks the package" in reason

    checked = site.run("cluster", "check", site.file, status=1).stderr
    assert "compute.node FAILED: " in checked
    assert "lacks nemo, " in checked


def test_variables_of_the_submitting_shell_do_not_reach_a_job(site, forked, tmp_path) -> None:
    wrong = tmp_path / "wrong/recipes"
    wrong.mkdir(parents=True)
    (wrong / "__init__.py").write_text("raise SystemExit('of the shell')")
    site.shell["PYTHONPATH"] = str(wrong.parent)
    # what an interactive allocation sets, which excludes the memory of the cluster file
    site.shell |= {"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_PER_TASK": "64", "SLURM_NTASKS": "9"}
    site.write({"cpu_partition": _cpu_partition(memory="200M", cpus_per_task=2)})
    chain = [Task("one", LIST)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in site.shell.items():
            monkeypatch.setenv(name, value)
        ids = forked(submit_tasks, chain, site.file, site.run_folder)
    site.wait_for(ids["one"], "COMPLETED")


def test_an_evaluation_continues_after_its_time_limit(site, forked, tmp_path) -> None:
    forked(write_model, tmp_path / "model", 512)
    evaluate = {"partition": "batch", "time_limit": "00:01:00"}
    site.write({"evaluate": evaluate, "stop_before_limit": 40})
    output = tmp_path / "out"
    words = ["eval", "long-context", "--model", tmp_path / "model", "--size", "tiny"]
    words += ["--lengths", "256", "--samples", "4", "--output", output]
    site.run(*words, "--on", site.file, "--run-dir", site.run_folder)
    job = site.ids()["eval-long-context"]

    # it sleeps through the twenty seconds of its first start
    site.wait(lambda: site.events("eval-long-context") == ["started"])
    site.cluster.run("scontrol", "suspend", job)
    time.sleep(25)
    site.cluster.run("scontrol", "resume", job)
    site.wait_for(job, "COMPLETED")
    events = site.events("eval-long-context")
    assert events[:3] == ["started", "stopped", "started"]
    assert events[-1] == "finished"
    assert read_evaluation(output).failures == {}


def _cpu_partition(**values: object) -> dict[str, object]:
    return {"partition": "batch", "time_limit": "00:10:00", **values}
