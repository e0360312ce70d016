"""Chains on a real Slurm: submitted, watched, disturbed in every way of a cluster, and resumed."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from evaluation.results import read_evaluation
from recipes.common.environment import PRELOADED
from recipes.runs.task import Task
from tests.helpers.eval_models import write_model
from tests.helpers.slurm_site import STEPS, TOKENS_PER_STEP, Site, submit_tasks

pytestmark = pytest.mark.slurm

FEW_STEPS = f"tokens={40 * TOKENS_PER_STEP}"
LIST = ("list", "--json")


def _submitted_script(site: Site, job: str) -> str:
    """Return the script that sbatch got, with the experiment's id as a dry run prints it."""
    (path,) = site.run_folder.glob(f"slurm/experiments/*/*/{job}_sbatch.sh")
    return path.read_text().replace(path.parent.name, "EXPERIMENT")


def test_two_nodes_train_through_a_requeue_a_preemption_and_a_lost_node(site, data) -> None:
    site.write({"compute": {"partition": "low"}})
    printed = site.stdout(*site.phase1(data, "--devices", "2"), "--dryrun")
    ids = site.submit(data, "--devices", "2")
    assert list(ids) == ["phase1", "phase1-export", "report", "generate"]
    # a dry run prints what is submitted
    for job in ids:
        assert _submitted_script(site, job) in printed

    site.wait_for_step(40)
    site.cluster.run("scontrol", "requeue", ids["phase1"])
    site.wait_for_start(2)
    site.cluster.submit("sleep 1", "--partition=high", "--nodes=2", "--exclusive")
    site.wait_for_start(3)
    site.cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    lost = ("PENDING", "REQUEUED", "NODE_FAIL")
    site.wait(lambda: site.cluster.state(ids["phase1"]).startswith(lost))
    site.cluster.run("scontrol", "update", "nodename=n2", "state=resume")
    site.wait_for(ids["generate"], "COMPLETED")

    assert site.steps() == list(range(1, STEPS + 1))
    manifest = site.manifest()
    assert (manifest["status"], manifest["num_starts"]) == ("finished", 4)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = head.stdout.strip()
    assert yaml.safe_load((site.run_folder / "phase1/recipe.yaml").read_text())["code"] == commit
    assert (site.folder / "code" / commit / "recipes/cli/main.py").exists()

    status = site.status()
    assert {job["state"] for job in status.values()} == {"COMPLETED"}
    assert status["phase1"]["starts"] == 4
    # each start has an end in the record
    events = site.events("phase1")
    assert events[::2] == ["started"] * 4
    assert set(events[1::2]) <= {"terminated", "stopped", "lost", "finished"}
    assert events[-1] == "finished"
    assert 0 < status["phase1"]["goodput"] < 1
    assert f"step {STEPS}/{STEPS}" in site.stdout("logs", "phase1", *site.flags)
    # what is done is not done again
    assert "phase1: finished already" in site.messages(*site.phase1(data))


def test_a_time_limit_is_followed_by_another_start(site, data) -> None:
    site.write({"compute": {"time_limit": "00:01:00"}, "stop_before_limit": 40})
    # more than any machine trains in the 20 seconds of a start
    ids = site.submit(data, f"tokens={8000 * TOKENS_PER_STEP}")
    site.wait(lambda: "stopped" in site.events("phase1"))
    assert site.manifest()["status"] == "stopped"
    first = site.steps()[-1]

    # those that wait for it do not take that for its end
    site.wait_for_start(2)
    assert site.states()["phase1-export"] == "PENDING"
    site.run("cancel", *site.flags)
    site.wait_for(ids["phase1"], "CANCELLED")
    steps = site.steps()
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > first


def test_starts_without_a_new_checkpoint_are_counted_and_end(site, data, tmp_path) -> None:
    # without the process that it is to run in, every start crashes
    site.write({"retries": 1, "environment": {PRELOADED: str(tmp_path / "nobody")}})
    ids = site.submit(data)
    site.wait_for(ids["phase1"], "FAILED")
    site.wait_for(ids["generate"], "CANCELLED")
    assert site.events("phase1") == ["started", "crashed", "started", "crashed", "given up"]
    phase1 = site.status()["phase1"]
    reason = "as many starts as the cluster file allows brought nothing new"
    assert (phase1["reason"], phase1["starts"]) == (reason, 2)


def test_a_users_mistake_is_not_tried_again(site, data, tmp_path) -> None:
    (tmp_path / "weights").mkdir()
    ids = site.submit(data, "--init", str(tmp_path))
    site.wait_for(ids["generate"], "CANCELLED")
    assert site.events("phase1") == ["started", "failed"]
    reason = site.status()["phase1"]["reason"]
    assert f"{tmp_path}/weights/metadata.json: not found" in reason
    # the launcher's frames follow the sentence in the log, but not in what is printed
    logs = site.stdout("logs", "phase1", *site.flags)
    assert logs.rstrip().splitlines()[-1] == f"phase1: {reason}"
    assert "sbatch_one.phase1_" in logs
    assert "+ granite41_records" not in logs


def test_the_fault_tolerant_launcher_restarts_a_lost_process_in_the_job(site, data) -> None:
    site.write({"launcher": "fault_tolerant"})
    ids = site.submit(data)
    site.wait_for_step(60)
    training = f"python -u -m recipes.cli train .*{site.run_folder}"
    subprocess.run(["pkill", "-KILL", "-f", training], check=True)
    site.wait_for(ids["phase1"], "COMPLETED")
    assert site.steps() == list(range(1, STEPS + 1))
    assert site.manifest()["num_starts"] == 2
    assert site.events("phase1") == ["started", "finished"]


def test_cancel_and_resume(site, data) -> None:
    ids = site.submit(data)
    refusal = site.refusal(*site.phase1(data))
    assert "4 jobs of this run wait or run already" in refusal
    site.wait_for_step(60)
    assert "cancelled 4 jobs" in site.stdout("cancel", *site.flags)
    site.wait_for(ids["phase1"], "CANCELLED")
    site.wait_for_empty_queue()

    # no job is requeued: Slurm would have done so after 5 to 8 seconds
    time.sleep(8)
    assert site.queue_is_empty()
    assert set(site.states().values()) == {"CANCELLED"}
    assert site.events("phase1") == ["started", "terminated"]

    site.run("resume", *site.flags)
    site.wait_for(site.ids()["phase1"], "COMPLETED")
    assert site.steps() == list(range(1, STEPS + 1))
    assert site.manifest()["num_starts"] == 2
    # those before the new submission count
    assert site.status()["phase1"]["starts"] == 2


def test_a_failed_job_ends_those_that_wait_for_it_with_its_reason(site, forked) -> None:
    site.write({"environment": {}})
    checkpoint = str(site.folder / "none")
    wrong = ("export", "--checkpoint", checkpoint, "--output", str(site.folder / "hf"))
    chain = [
        Task("one", LIST),
        Task("two", wrong, ("one",)),
        Task("three", LIST, ("two",)),
        Task("four", LIST, ("one",)),
    ]
    ids = forked(submit_tasks, chain, site.file, site.run_folder)
    site.wait_for(ids["three"], "CANCELLED")
    site.wait_for(ids["four"], "COMPLETED")
    assert site.states() == {
        "one": "COMPLETED",
        "two": "FAILED",
        "three": "CANCELLED",
        "four": "COMPLETED",
    }
    reason = site.status()["two"]["reason"]
    assert "not a NeMo checkpoint" in reason or "none" in reason
    assert '"stage": "phase1"' in site.stdout("logs", "one", *site.flags)


def test_a_stage_with_its_merge_evaluations_and_gate(site, data, forked) -> None:
    ids = site.submit(data, FEW_STEPS)
    site.wait_for(ids["phase1-export"], "COMPLETED")
    site.run("cancel", *site.flags)
    site.wait_for_empty_queue()

    flags = ["--size", "tiny", "--on", site.file, "--run-dir", site.run_folder, "--data", data]
    overrides = (
        "model.vocab_size=512",
        "model.num_layers=1",
        "sequence_length=512",
        "global_batch_size=2",
        "parallelism.micro_batch_size=1",
        "split=900,100,0",
        "tokens=4096",
        "validation_batches=1",
    )
    site.run("run", "lce_32k", *flags, "--init", f"hf:{site.run_folder}/phase1/hf", *overrides)
    site.wait_for(site.ids()["report"], "COMPLETED")
    states = site.states()
    states.pop("generate")
    assert set(states.values()) == {"COMPLETED"}
    folder = site.run_folder / "lce_32k"
    evaluations = {path.name for path in (folder / "eval").iterdir()}
    assert evaluations == {"long-context", "long-context-unmerged", "smoke", "smoke-unmerged"}
    units = read_evaluation(folder / "eval/long-context").units
    assert {unit.length for unit in units} == {256, 512}
    assert (folder / "merged").is_dir()
    assert (site.run_folder / "evaluation.html").exists()

    # a gate that fails ends what waits for it, and says why: the project's own texts are refused
    long_context = str(folder / "eval/long-context")
    gate = ("eval", "gate", "--folders", long_context, "--reference", "none")
    chain = [Task("gate", gate), Task("next", LIST, ("gate",))]
    ids = forked(submit_tasks, chain, site.file, site.run_folder)
    site.wait_for(ids["next"], "CANCELLED")
    assert site.status()["gate"]["state"] == "FAILED"
    assert "fallback" in site.status()["gate"]["reason"]


def test_what_sbatch_refuses_leaves_nothing_in_the_queue(site, forked) -> None:
    limit = ["sacctmgr", "-i", "modify", "user", "root", "where", "account=granite", "set"]
    site.cluster.run(*limit, "maxsubmitjobs=2")
    try:
        chain = [Task("one", LIST), Task("two", LIST, ("one",)), Task("three", LIST, ("two",))]
        refusal = forked(submit_tasks, chain, site.file, site.run_folder)
    finally:
        site.cluster.run(*limit, "maxsubmitjobs=-1")
    assert "sbatch refused a job, the 2 before it were cancelled: " in refusal
    assert site.queue_is_empty()
    assert not (site.run_folder / "slurm/submitted.json").exists()


IMAGE = {"container": {"image": "/no/image.sqsh"}}


@pytest.mark.parametrize(
    ("changes", "check", "found"),
    [
        ({"account": "nobody"}, "account", "not nobody, expected one of yours: granite, root"),
        (
            {"compute": {"partition": "bach"}},
            "compute.partition",
            "no bach, expected one of batch, ",
        ),
        (
            {"compute": {"gres": "gpu:h100:3"}},
            "compute.gres",
            "gpu:h100:2, expected a node with gpu:h100:3",
        ),
        (
            {"compute": {"gres": "gpu:a100:1"}},
            "compute.gres",
            "gpu:h100:2, expected a node with gpu:a100:1",
        ),
        (
            {"compute": {"partition": "short", "time_limit": "01:00:00"}},
            "compute.time_limit",
            "01:00:00, expected at most",
        ),
        (IMAGE, "container", "srun has no --container-image, expected pyxis"),
        (IMAGE, "container.image", "not there, or not readable, expected /no/image"),
        ({"python": "/no/python"}, "python", ""),
        ({"folder": "/proc/here"}, "folder", "/proc/here is not writable"),
    ],
)
def test_what_the_cluster_lacks_is_named_before_submission(
    site, data, changes, check, found
) -> None:
    site.write(changes)
    refusal = site.refusal(*site.phase1(data))
    assert f"{check}: {found}" in refusal
    assert refusal.count("\n") == 1
    assert site.queue_is_empty()
    checked = site.run("cluster", "check", site.file, status=1).stderr
    assert f"{check} FAILED: {found.replace(', expected', '; expected')}" in checked


def test_more_nodes_than_there_are(site, data) -> None:
    refusal = site.refusal(*site.phase1(data, "global_batch_size=8", "--devices", "4"))
    assert "compute.nodes: 2 nodes, expected at least 4" in refusal


def test_a_cluster_that_has_all_is_checked(site) -> None:
    site.write({"compute": {"gres": "gpu:h100:2"}})
    assert "FAILED" not in site.stdout("cluster", "check", site.file)


def test_a_controller_that_is_down_is_named(site, data) -> None:
    site.cluster.kill_controller()
    try:
        refusal = site.refusal(*site.phase1(data))
    finally:
        site.cluster.start_controller()
    assert "Slurm's controller does not answer" in refusal
    assert not site.run_folder.exists()


def test_from_elsewhere_through_a_login_node(site, ssh, data, tmp_path) -> None:
    login = {"host": ssh.host, "port": ssh.port, "user": ssh.user, "identity": str(ssh.identity)}
    site.write({"login": login})
    site.flags += ["--on", site.file]
    # a user's ssh knows the login node
    program = f'#!/bin/sh\nexec /usr/bin/ssh -o UserKnownHostsFile={ssh.known_hosts} "$@"\n'
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(program)
    (tmp_path / "bin/ssh").chmod(0o755)
    site.shell["PATH"] = f"{tmp_path}/bin:{site.shell['PATH']}"
    site.shell["NEMORUN_HOME"] = str(tmp_path / "nemo_run_home")
    # where the user is, there is no Slurm
    site.shell["SLURM_CONF"] = "/nowhere"

    assert "controller" in site.stdout("cluster", "check", site.file)
    printed = site.stdout(*site.phase1(data, FEW_STEPS), "--dryrun")
    hint = f"see `granite41 status --run-dir {site.run_folder} --on {site.file}`"
    assert hint in site.messages(*site.phase1(data, FEW_STEPS))
    ids = site.ids()
    for job in ids:
        assert _submitted_script(site, job) in printed
    site.wait_for(ids["report"], "COMPLETED")
    states = site.states()
    states.pop("generate")
    assert set(states.values()) == {"COMPLETED"}
    # whoever reads it on the login node has other ways to it
    assert site.submission()["cluster"]["login"] is None
    assert "step 40/40" in site.stdout("logs", "phase1", *site.flags)
    assert "phase1: finished already" in site.messages(*site.phase1(data, FEW_STEPS))
    assert "relative path means nothing" in site.refusal(*site.phase1(Path("data")))

    # the sentence about a damaged record names the file on the cluster
    record = site.run_folder / "slurm/submitted.json"
    record.write_text("{")
    assert f"{record}: is not valid JSON" in site.refusal("status", *site.flags)


def test_a_login_node_that_refuses(site, ssh) -> None:
    login = {"host": ssh.host, "port": ssh.port, "user": "nobody", "identity": str(ssh.identity)}
    site.write({"login": login})
    refusal = site.refusal("cluster", "check", site.file)
    assert f"{ssh.host}: " in refusal
    assert "must work without a password" in refusal


def test_a_full_shared_folder(site, data) -> None:
    full = site.folder / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", full], check=True)
    try:
        site.write({"folder": str(full)})
        refusal = site.refusal(*site.phase1(data))
    finally:
        subprocess.run(["umount", full], check=True)
    assert "folder: 0.001049 GB free, expected 0.0" in refusal


def _shards(folder: Path) -> dict[str, bytes]:
    """Return name -> content of the files of tokens."""
    paths = [path for path in folder.iterdir() if path.suffix in (".bin", ".idx")]
    return {path.name: path.read_bytes() for path in paths}


def test_shards_are_tokenized_by_an_array(site, data, tmp_path) -> None:
    inputs = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for number, path in enumerate(inputs):
        documents = [{"text": f"line {number} {line}"} for line in range(50)]
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    words = ["--input", *inputs, "--tokenizer", data / "tokenizer", "--shards", "3"]
    alone = site.folder / "alone"
    site.run("data", "tokenize", *words, "--output", alone, "--workers", "1")

    tokenize = ["data", "tokenize", *words, "--on", site.file, "--run-dir", site.run_folder]
    output = site.folder / "tokens"
    assert "3 jobs for as many shards" in site.stdout(*tokenize, "--output", output)
    site.wait(lambda: site.states()["tokenize"] == "COMPLETED")
    shards = _shards(output)
    assert len(shards) == 6
    assert shards == _shards(alone)
    assert (output / "manifest.json").exists()

    # shards that fail are counted, with their sentence
    inputs[1].write_text("no JSON")
    site.run(*tokenize, "--output", site.folder / "other")
    site.wait(lambda: site.states()["tokenize"] == "FAILED")
    assert f"{inputs[1]}" in site.status()["tokenize"]["reason"]
    assert "no chain of stages" in site.refusal("resume", *site.flags)


def test_an_evaluation_has_a_job_for_each_length(site, forked, tmp_path) -> None:
    forked(write_model, tmp_path / "model", 512)
    output = tmp_path / "out"
    words = ["eval", "long-context", "--model", tmp_path / "model", "--size", "tiny"]
    words += ["--tasks", "niah_single_1", "niah_single_2", "--samples", "2"]
    words += ["--lengths", "256", "384"]
    site.run(*words, "--output", output, "--on", site.file, "--run-dir", site.run_folder)

    ids = site.ids()
    assert list(ids) == ["eval-long-context-256", "eval-long-context-384", "eval-long-context"]
    site.wait_for(ids["eval-long-context"], "COMPLETED")
    units = {unit.name for unit in read_evaluation(output).units}
    assert units == {
        "niah_single_1@256",
        "niah_single_2@256",
        "niah_single_1@384",
        "niah_single_2@384",
    }
    log = site.stdout("logs", "eval-long-context", *site.flags)
    assert "4 of 4 units have their results already" in log


def test_without_accounting_nothing_is_submitted(site, data, tmp_path) -> None:
    program = "#!/bin/sh\necho Slurm accounting storage is disabled >&2\nexit 1\n"
    (tmp_path / "bin").mkdir()
    for name in ("sacct", "sacctmgr"):
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    site.shell["PATH"] = f"{tmp_path}/bin:{site.shell['PATH']}"
    refusal = site.refusal(*site.phase1(data))
    assert "accounting: Slurm accounting storage is disabled, expected sacct answers" in refusal
    assert site.queue_is_empty()
