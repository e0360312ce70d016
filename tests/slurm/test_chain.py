"""Chains on a real Slurm: submitted, watched, disturbed in every way that a cluster knows, and gone on with."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from evaluation.results import read_evaluation
from recipes.runs.task import Task
from tests.helpers import preloaded
from tests.helpers.eval_models import write_model
from tests.helpers.local_cluster import LocalCluster

pytestmark = pytest.mark.slurm

# steps of a model so small that most of a step is what torch does around it
STEPS = 250
SMALL = [
    *("model.vocab_size=512", "model.num_layers=1", "sequence_length=64", "global_batch_size=4"),
    *("parallelism.micro_batch_size=2", f"tokens={STEPS * 256}", "schedule.warmup_tokens=512"),
    *(
        "checkpoint_every_tokens=12800",
        "validate_every_tokens=76800",
        "validation_batches=1",
        "split=900,100,0",
    ),
]
FEW = f"tokens={40 * 256}"


@pytest.fixture(scope="module")
def warm_environment() -> Iterator[dict[str, str]]:
    with preloaded.server() as environment:
        yield environment


class Site:
    """What a user has: a cluster file, a shared folder, and the command line."""

    def __init__(self, cluster: LocalCluster, environment: dict[str, str], folder: Path) -> None:
        self.cluster, self.environment, self.folder = cluster, environment, folder
        self.run_folder = folder / "runs" / "one"
        # of the shell that the commands are given in
        self.shell = os.environ | environment
        # what says where the run is
        self.where: list[str | Path] = ["--run-dir", self.run_folder]
        self.write({})

    def write(self, changes: dict[str, Any]) -> None:
        """Write the cluster file, with changes."""
        compute = {
            "partition": "batch",
            "time_limit": "00:10:00",
            "gpu_type": "cpu",
            "gpus_per_node": 1,
        }
        content = {
            "account": "granite",
            "folder": str(self.folder),
            "python": sys.executable,
            # all nodes are on one machine
            "environment": {"OMP_NUM_THREADS": "1", **self.environment},
            "stop_before_limit": 30,
            **changes,
            "compute": compute | changes.get("compute", {}),
        }
        self.file = self.folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(content))

    def granite41(self, *words: str | Path, status: int = 0) -> str:
        """Run a command; return what it printed, on stderr where it failed as it should."""
        done = subprocess.run(
            [sys.executable, "-m", "recipes.cli", *words],
            env=self.shell,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    def run_phase1(self, data: Path, *more: str) -> list[str | Path]:
        """Return the words of the command that submits phase 1."""
        where = ["--on", self.file, "--run-dir", self.run_folder, "--data", data, "--no-eval"]
        return ["run", "phase1", "--size", "tiny", *where, *SMALL, *more]

    def submit(self, data: Path, *more: str) -> dict[str, str]:
        """Submit phase 1; return task -> job id."""
        self.granite41(*self.run_phase1(data, *more))
        return self.ids()

    def ids(self) -> dict[str, str]:
        submitted = json.loads((self.run_folder / "slurm/submitted.json").read_text())
        return {task: job["id"] for task, job in submitted["jobs"].items()}

    def status(self) -> dict[str, dict[str, Any]]:
        told = json.loads(self.granite41("status", *self.where, "--json"))
        return {job["task"]: job for job in told}

    def events(self, task: str) -> list[str]:
        path = self.run_folder / "slurm" / task / "events.jsonl"
        return (
            [json.loads(line)["event"] for line in path.read_text().splitlines()]
            if path.exists()
            else []
        )

    def steps(self) -> list[int]:
        path = self.run_folder / "phase1/metrics/steps.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [
            json.loads(line)["step"] for line in lines if '"loss"' in line and line.endswith("}")
        ]

    def wait(self, ready: Callable[[], Any], seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = sorted(
                    self.run_folder.glob("slurm/experiments/*/*/*/*.out"), key=os.path.getmtime
                )
                tails = "".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in logs[-4:])
                events = "".join(
                    path.read_text() for path in self.run_folder.glob("slurm/*/events.jsonl")
                )
                raise TimeoutError(f"{self.cluster.run('squeue')}\n{events}\n{tails}")
            time.sleep(0.2)

    def wait_for(self, job: str, state: str) -> None:
        self.wait(lambda: self.cluster.state(job).startswith(state))

    def wait_for_empty_queue(self) -> None:
        """Wait until what was cancelled has ended."""
        self.wait(lambda: not self.cluster.run("squeue", "--noheader"))

    def wait_for_start(self, number: int) -> None:
        """Wait until the training has gone on in this start."""
        self.wait(lambda: self.events("phase1").count("started") == number)
        self.wait_for_step((self.steps() or [0])[-1] + 30)

    def wait_for_step(self, least: int) -> None:
        self.wait(lambda: (self.steps() or [0])[-1] >= least)


@pytest.fixture
def site(cluster: LocalCluster, warm_environment, tmp_path) -> Iterator[Site]:
    site = Site(cluster, warm_environment, tmp_path)
    yield site
    cluster.run("scancel", "--user=root")
    for node in cluster.nodes:
        if cluster.node_state(node).startswith(("down", "drain")):
            cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    site.wait_for_empty_queue()


def test_two_nodes_train_through_a_requeue_a_preemption_and_a_lost_node(site, data) -> None:
    site.write({"compute": {"partition": "low"}})
    printed = site.granite41(*site.run_phase1(data, "--devices", "2"), "--dryrun")
    ids = site.submit(data, "--devices", "2")
    assert list(ids) == ["phase1", "phase1-export", "report", "generate"]
    # a dry run prints what nemo-run submits
    written = {
        path.name: path for path in site.run_folder.glob("slurm/experiments/*/*/*_sbatch.sh")
    }
    for job in ids:
        path = written[f"{job}_sbatch.sh"]
        assert path.read_text().replace(path.parent.name, "EXPERIMENT") in printed
    site.wait_for_step(40)
    site.cluster.run("scontrol", "requeue", ids["phase1"])
    site.wait_for_start(2)
    site.cluster.submit("sleep 1", "--partition=high", "--nodes=2", "--exclusive")
    site.wait_for_start(3)
    site.cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    site.wait(
        lambda: site.cluster.state(ids["phase1"]).startswith(("COMPUTED", "REQUEUED", "NODE_FAIL"))
    )
    site.cluster.run("scontrol", "update", "nodename=n2", "state=resume")
    site.wait_for(ids["generate"], "COMPLETED")

    assert site.steps() == list(range(1, STEPS + 1))
    manifest = json.loads((site.run_folder / "phase1/manifest.json").read_text())
    assert (manifest["status"], manifest["num_starts"]) == ("finished", 4)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert yaml.safe_load((site.run_folder / "phase1/recipe.yaml").read_text())["code"] == commit
    assert (site.folder / "code" / commit / "recipes/cli/main.py").exists()
    told = site.status()
    assert {job["state"] for job in told.values()} == {"COMPLETED"}
    assert told["phase1"]["starts"] == 4
    assert 0 < told["phase1"]["goodput"] < 1
    assert f"step {STEPS}/{STEPS}" in site.granite41("logs", "phase1", *site.where)
    # what is done is not done again
    assert "phase1: finished already" in site.granite41(*site.run_phase1(data))


def test_a_time_limit_is_followed_by_another_start(site, data) -> None:
    site.write({"compute": {"time_limit": "00:01:00"}, "stop_before_limit": 40})
    # more than any machine trains in the 20 seconds of a start
    ids = site.submit(data, f"tokens={8000 * 256}")
    site.wait(lambda: "stopped" in site.events("phase1"))
    assert json.loads((site.run_folder / "phase1/manifest.json").read_text())["status"] == "stopped"
    first = site.steps()[-1]
    # those that wait for it do not take that for its end
    site.wait_for_start(2)
    assert site.status()["phase1-export"]["state"] == "COMPUTED"
    site.granite41("cancel", *site.where)
    site.wait_for(ids["phase1"], "CANCELLED")
    steps = site.steps()
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > first


def test_starts_without_a_new_checkpoint_are_counted_and_end(site, data, tmp_path) -> None:
    site.write({"retries": 1, "environment": {"GRANITE41_WARM": str(tmp_path / "nobody")}})
    ids = site.submit(data)
    site.wait_for(ids["phase1"], "FAILED")
    site.wait_for(ids["generate"], "CANCELLED")
    assert site.events("phase1") == ["started", "crashed", "started", "crashed", "given up"]
    told = site.status()
    assert (
        told["phase1"]["reason"]
        == "as many starts as the cluster file allows brought no new checkpoint"
    )
    assert told["phase1"]["starts"] == 2


def test_a_users_mistake_is_not_tried_again(site, data, tmp_path) -> None:
    (tmp_path / "weights").mkdir()
    ids = site.submit(data, "--init", str(tmp_path))
    site.wait_for(ids["generate"], "CANCELLED")
    assert site.events("phase1") == ["started", "failed"]
    assert f"{tmp_path}/weights/metadata.json: not found" in site.status()["phase1"]["reason"]


def test_the_fault_tolerant_launcher_restarts_a_lost_process_in_the_job(site, data) -> None:
    site.write({"launcher": "fault_tolerant"})
    ids = site.submit(data)
    site.wait_for_step(60)
    subprocess.run(
        ["pkill", "-KILL", "-f", f"python -u -m recipes.cli train .*{site.run_folder}"], check=True
    )
    site.wait_for(ids["phase1"], "COMPLETED")
    assert site.steps() == list(range(1, STEPS + 1))
    assert json.loads((site.run_folder / "phase1/manifest.json").read_text())["num_starts"] == 2
    assert site.events("phase1") == ["started", "finished"]


def test_cancel_and_resume(site, data) -> None:
    ids = site.submit(data)
    refused = site.granite41(*site.run_phase1(data), status=2)
    assert "4 jobs of this run wait or run already" in refused
    site.wait_for_step(60)
    assert "cancelled 4 jobs" in site.granite41("cancel", *site.where)
    site.wait_for(ids["phase1"], "CANCELLED")
    site.wait_for_empty_queue()
    time.sleep(8)
    # nothing came back by itself
    assert site.cluster.run("squeue", "--noheader") == ""
    assert {job["state"] for job in site.status().values()} == {"CANCELLED"}
    site.granite41("resume", *site.where)
    site.wait_for(site.ids()["phase1"], "COMPLETED")
    assert site.steps() == list(range(1, STEPS + 1))
    assert json.loads((site.run_folder / "phase1/manifest.json").read_text())["num_starts"] == 2


def _submit(chain: list[Task], file: Path, run_folder: Path) -> dict[str, str] | str:
    from recipes.common.errors import UserError
    from slurm.cluster import load_cluster
    from slurm.submit import submit

    try:
        return submit(chain, load_cluster(str(file)), PurePosixPath(run_folder), {})
    except UserError as error:
        return str(error)


LIST = ("list", "--json")


def test_a_failed_job_ends_those_that_wait_for_it_with_its_reason(site, forked) -> None:
    site.write({"environment": {}})
    wrong = (
        "export",
        "--checkpoint",
        str(site.folder / "none"),
        "--output",
        str(site.folder / "hf"),
    )
    chain = [
        Task("one", LIST),
        Task("two", wrong, ("one",)),
        Task("three", LIST, ("two",)),
        Task("four", LIST, ("one",)),
    ]
    ids = forked(_submit, chain, site.file, site.run_folder)
    site.wait_for(ids["three"], "CANCELLED")
    site.wait_for(ids["four"], "COMPLETED")
    told = site.status()
    assert [told[name]["state"] for name in ("one", "two", "three", "four")] == [
        *("COMPLETED", "FAILED", "CANCELLED", "COMPLETED")
    ]
    assert "not a NeMo checkpoint" in told["two"]["reason"] or "none" in told["two"]["reason"]
    assert '"stage": "phase1"' in site.granite41("logs", "one", *site.where)


def test_a_stage_with_its_merge_evaluations_and_gate(site, data, forked) -> None:
    ids = site.submit(data, FEW)
    site.wait_for(ids["phase1-export"], "COMPLETED")
    site.granite41("cancel", *site.where)
    site.wait_for_empty_queue()
    words = [
        "run",
        "lce_32k",
        "--size",
        "tiny",
        "--on",
        site.file,
        "--run-dir",
        site.run_folder,
        "--data",
        data,
    ]
    words += [
        "--init",
        f"hf:{site.run_folder}/phase1/hf",
        "model.vocab_size=512",
        "model.num_layers=1",
    ]
    short = [
        "sequence_length=512",
        "global_batch_size=2",
        "parallelism.micro_batch_size=1",
        "split=900,100,0",
    ]
    site.granite41(*words, *short, "tokens=4096", "validation_batches=1")
    ids = site.ids()
    site.wait_for(ids["report"], "COMPLETED")
    told = site.status()
    assert {job["state"] for task, job in told.items() if task != "generate"} == {"COMPLETED"}
    folder = site.run_folder / "lce_32k"
    assert {path.name for path in (folder / "eval").iterdir()} == {
        *("long-context", "long-context-unmerged", "smoke", "smoke-unmerged")
    }
    assert {unit.length for unit in read_evaluation(folder / "eval/long-context").units} == {
        256,
        512,
    }
    assert (folder / "merged").is_dir()
    assert (site.run_folder / "evaluation.html").exists()
    # a gate that fails stops what comes after it, and says why: texts of the project's own are refused
    gate = Task(
        "gate",
        ("eval", "gate", "--folders", str(folder / "eval/long-context"), "--reference", "none"),
    )
    ids = forked(_submit, [gate, Task("next", LIST, ("gate",))], site.file, site.run_folder)
    site.wait_for(ids["next"], "CANCELLED")
    assert site.status()["gate"]["state"] == "FAILED"
    assert "fallback" in site.status()["gate"]["reason"]


def test_what_sbatch_refuses_leaves_nothing_in_the_queue(site, forked) -> None:
    limit = ["sacctmgr", "-i", "modify", "user", "root", "where", "account=granite", "set"]
    site.cluster.run(*limit, "maxsubmitjobs=2")
    try:
        chain = [Task("one", LIST), Task("two", LIST, ("one",)), Task("three", LIST, ("two",))]
        refused = forked(_submit, chain, site.file, site.run_folder)
    finally:
        site.cluster.run(*limit, "maxsubmitjobs=-1")
    assert "sbatch refused a job, the 2 before it were cancelled: " in refused
    assert site.cluster.run("squeue", "--noheader") == ""
    assert not (site.run_folder / "slurm/submitted.json").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"account": "nobody"}, "account: not nobody, expected one of yours: granite, root"),
        ({"compute": {"partition": "bach"}}, "compute.partition: no bach, expected one of batch, "),
        (
            {"compute": {"gres": "gpu:h100:3"}},
            "compute.gres: gpu:h100:2, expected a node with gpu:h100:3",
        ),
        (
            {"compute": {"gres": "gpu:a100:1"}},
            "compute.gres: gpu:h100:2, expected a node with gpu:a100:1",
        ),
        (
            {"compute": {"partition": "short", "time_limit": "01:00:00"}},
            "compute.time_limit: 01:00:00, expected at most",
        ),
        (
            {"container": {"image": "/no/image.sqsh"}},
            "container: srun has no --container-image, expected pyxis",
        ),
        (
            {"container": {"image": "/no/image.sqsh"}},
            "container.image: not there, or not readable, expected /no/image",
        ),
        ({"python": "/no/python"}, "python: "),
        ({"folder": "/proc/here"}, "folder: /proc/here is not writable"),
    ],
)
def test_what_the_cluster_has_not_is_told_before_submission(site, data, changes, said) -> None:
    site.write(changes)
    refused = site.granite41(*site.run_phase1(data), status=2)
    assert said in refused
    assert (refused.count("\n"), site.cluster.run("squeue", "--noheader")) == (1, "")
    checked = site.granite41("cluster", "check", site.file, status=1)
    assert said.replace(", expected", "; expected") in checked


def test_more_nodes_than_there_are(site, data) -> None:
    refused = site.granite41(
        *site.run_phase1(data, "global_batch_size=8", "--devices", "4"), status=2
    )
    assert "compute.nodes: 2 nodes, expected at least 4" in refused


def test_a_cluster_that_has_all_is_checked(site) -> None:
    site.write({"compute": {"gres": "gpu:h100:2"}})
    assert "MISSING" not in site.granite41("cluster", "check", site.file)


def test_a_controller_that_is_down_is_told(site, data) -> None:
    site.cluster.kill_controller()
    try:
        refused = site.granite41(*site.run_phase1(data), status=2)
    finally:
        site.cluster.start_controller()
    assert "Slurm's controller does not answer" in refused
    assert not site.run_folder.exists()


def test_from_elsewhere_through_a_login_node(site, ssh, data, tmp_path) -> None:
    login = {"host": ssh.host, "port": ssh.port, "user": ssh.user, "identity": str(ssh.identity)}
    site.write({"login": login})
    site.where += ["--on", site.file]
    # a user's ssh knows the login node
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(
        f'#!/bin/sh\nexec /usr/bin/ssh -o UserKnownHostsFile={ssh.known_hosts} "$@"\n'
    )
    (tmp_path / "bin/ssh").chmod(0o755)
    site.shell["PATH"] = f"{tmp_path}/bin:{site.shell['PATH']}"
    site.shell["NEMORUN_HOME"] = str(tmp_path / "nemo_run_home")
    # there is no Slurm where the user is
    site.shell["SLURM_CONF"] = "/nowhere"
    assert "controller" in site.granite41("cluster", "check", site.file)
    said = site.granite41(*site.run_phase1(data, FEW))
    assert f"see `granite41 status --run-dir {site.run_folder} --on {site.file}`" in said
    ids = site.ids()
    site.wait_for(ids["report"], "COMPLETED")
    assert {job["state"] for task, job in site.status().items() if task != "generate"} == {
        "COMPLETED"
    }
    # whoever asks on the login node has other ways to it
    assert (
        json.loads((site.run_folder / "slurm/submitted.json").read_text())["cluster"]["login"]
        is None
    )
    assert "step 40/40" in site.granite41("logs", "phase1", *site.where)
    assert "phase1: finished already" in site.granite41(*site.run_phase1(data, FEW))
    assert "relative path means nothing" in site.granite41(*site.run_phase1(Path("data")), status=2)


def test_a_login_node_that_refuses(site, ssh, data) -> None:
    site.write(
        {
            "login": {
                "host": ssh.host,
                "port": ssh.port,
                "user": "nobody",
                "identity": str(ssh.identity),
            }
        }
    )
    refused = site.granite41("cluster", "check", site.file, status=2)
    assert f"{ssh.host}: " in refused
    assert "must work without a password" in refused


def test_a_full_shared_folder(site, data) -> None:
    full = site.folder / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", full], check=True)
    try:
        site.write({"folder": str(full)})
        assert "folder: 0.001049 GB free, expected 0.0" in site.granite41(
            *site.run_phase1(data), status=2
        )
    finally:
        subprocess.run(["umount", full], check=True)


def test_shards_are_tokenized_by_an_array(site, data, tmp_path) -> None:
    texts = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for number, path in enumerate(texts):
        path.write_text(
            "".join(json.dumps({"text": f"line {number} {line}"}) + "\n" for line in range(50))
        )
    words = ["--input", *texts, "--tokenizer", data / "tokenizer", "--shards", "3"]
    alone = site.folder / "alone"
    site.granite41("data", "tokenize", *words, "--output", alone, "--workers", "1")
    output = site.folder / "tokens"
    where = ["--output", output, "--on", site.file, "--run-dir", site.run_folder]
    assert "3 jobs for as many shards" in site.granite41("data", "tokenize", *words, *where)
    site.wait(lambda: site.status()["tokenize"]["state"] == "COMPLETED")
    written = {
        path.name: path.read_bytes() for path in output.iterdir() if path.suffix in (".bin", ".idx")
    }
    assert len(written) == 6
    assert written == {
        path.name: path.read_bytes() for path in alone.iterdir() if path.suffix in (".bin", ".idx")
    }
    assert (output / "manifest.json").exists()
    # what fails is counted, with its sentence
    texts[1].write_text("no JSON")
    site.granite41("data", "tokenize", *words, *where[:1], site.folder / "other", *where[2:])
    site.wait(lambda: site.status()["tokenize"]["state"] == "FAILED")
    assert f"{texts[1]}" in site.status()["tokenize"]["reason"]
    assert "no chain of stages" in site.granite41("resume", *site.where, status=2)


def test_an_evaluation_has_a_job_for_each_length(site, forked, tmp_path) -> None:
    forked(write_model, tmp_path / "model", 512)
    words = [
        "eval",
        "long-context",
        "--model",
        tmp_path / "model",
        "--size",
        "tiny",
        "--output",
        tmp_path / "out",
    ]
    words += ["--tasks", "niah_single_1", "vt", "--lengths", "256", "384", "--samples", "1"]
    site.granite41(*words, "--on", site.file, "--run-dir", site.run_folder)
    ids = site.ids()
    assert list(ids) == ["eval-long-context-256", "eval-long-context-384", "eval-long-context"]
    site.wait_for(ids["eval-long-context"], "COMPLETED")
    evaluation = read_evaluation(tmp_path / "out")
    assert {unit.name for unit in evaluation.units} == {
        *("niah_single_1@256", "vt@256", "niah_single_1@384", "vt@384")
    }
    assert "4 of 4 units have their results already" in site.granite41(
        "logs", "eval-long-context", *site.where
    )


def test_without_accounting_nothing_is_submitted(site, data, tmp_path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sacct", "sacctmgr"):
        (tmp_path / "bin" / name).write_text(
            "#!/bin/sh\necho Slurm accounting storage is disabled >&2\nexit 1\n"
        )
        (tmp_path / "bin" / name).chmod(0o755)
    site.shell["PATH"] = f"{tmp_path}/bin:{site.shell['PATH']}"
    refused = site.granite41(*site.run_phase1(data), status=2)
    assert "accounting: Slurm accounting storage is disabled, expected sacct answers" in refused
    assert site.cluster.run("squeue", "--noheader") == ""
