"""Batch scripts equal their snapshots.

``UPDATE_SNAPSHOTS=1 pytest FILE`` writes the snapshots anew, for a reader to compare.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slurm.cluster import CLUSTERS
from tests.helpers.manifests import data_manifest

pytestmark = pytest.mark.slow

SNAPSHOTS = Path(__file__).parent / "snapshots"
FIXED = {"GRANITE41_COMMIT": "0123456789abcdef", "USER": "somebody"}

BARE_NODES = """\
account: a
folder: /shared
scratch: /tmp/scratch
python: /opt/granite41/bin/python
modules: [cuda/12.8]
launcher: fault_tolerant
environment: {NCCL_DEBUG: "it's fine"}
srun_args: [--mpi=none]
compute:
  partition: p
  time_limit: "1-00:00:00"
  gpu_type: gb200
  gpus_per_node: 4
  gres: "gpu:4"
  segment: 16
  environment: {NCCL_MNNVL_ENABLE: "1"}
"""

LIST_MODULES_OF_A_DRY_RUN = """\
import sys
sys.argv = ["granite41", "run", "phase1", "--size", "tiny", "--on", "cpu", "--dryrun"]
from recipes.cli.main import main
try:
    main()
except SystemExit:
    pass
print([name for name in ("nemo", "torch", "megatron", "torchx") if name in sys.modules])
"""


def _dryrun(*words: str | Path) -> dict[str, str]:
    """Return headline -> batch script of each job that a dry run prints."""
    command = [sys.executable, "-m", "recipes.cli", *words, "--dryrun"]
    done = subprocess.run(command, env=os.environ | FIXED, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, *pieces = re.split(r"^==== (.*)\n", done.stdout, flags=re.MULTILINE)
    assert before == ""
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def _require_snapshot(name: str, text: str) -> None:
    path = SNAPSHOTS / f"{name}.sh"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.fixture(scope="module")
def chain() -> dict[str, str]:
    flags = ["--size", "8b", "--on", "h100", "--data", "/lustre/data", "--run-dir", "/r/8b"]
    return _dryrun("run", "phase1..lce_512k", *flags)


def test_every_job_of_the_chain_with_its_nodes(chain) -> None:
    sizes = dict(headline.split(": ", 1) for headline in chain)
    # 1,024 GPUs for 512 replicas of two, on nodes of eight
    assert sizes["phase1"] == "128 x 8 on batch"
    assert sizes["phase2"] == "128 x 8 on batch after phase1-gate"
    assert sizes["lce_512k-merge"] == "1 x 1 on cpu after lce_512k"
    assert sizes["lce_512k-gate"].startswith("1 x 1 on cpu after lce_512k-")
    assert sizes["phase1-base"] == "1 x 1 on batch after phase1-export, ruler"


@pytest.mark.parametrize("job", ["phase1", "lce_32k-merge", "lce_32k-long-context"])
def test_scripts_of_a_cluster_with_containers(chain, job) -> None:
    (headline,) = [headline for headline in chain if headline.startswith(f"{job}:")]
    _require_snapshot(job, chain[headline])


def _mounts(script: str) -> list[str]:
    (mounts,) = re.findall(r"--container-mounts (\S+)", script)
    return mounts.split(",")


def test_what_a_job_reads_is_mounted(tmp_path) -> None:
    # an assembled folder points at the shards of another
    data = tmp_path / "data"
    data.mkdir()
    manifest = data_manifest(text={"../tokens/shard-00000": 1_000_000})
    text = manifest.components["text"]
    text.shards[0] = replace(text.shards[0], documents=10_000)
    manifest.write(data)
    flags = ["--size", "8b", "--on", "h100", "--run-dir", "/r/8b", "--no-eval"]
    flags += ["--data", data, "--init", "hf:/models/granite"]
    scripts = _dryrun("run", "phase1", *flags)
    for script in scripts.values():
        for folder in (data, tmp_path / "tokens", "/models/granite", "/r/8b"):
            assert f"{folder}:{folder}" in _mounts(script)


def test_jobs_without_a_gpu_start_an_image_for_gpus(chain) -> None:
    by_name = {headline.partition(":")[0]: script for headline, script in chain.items()}
    void = "export NVIDIA_VISIBLE_DEVICES=void"
    assert void in by_name["lce_32k-merge"]
    assert "NVIDIA_VISIBLE_DEVICES" in by_name["lce_32k-merge"].partition("--container-env ")[2]
    assert void not in by_name["phase1"]
    assert void not in by_name["phase1-base"]


def test_an_evaluation_takes_one_gpu(chain) -> None:
    by_name = {headline.partition(":")[0]: script for headline, script in chain.items()}
    script = by_name["lce_32k-long-context-4096"]
    assert "#SBATCH --gres=gpu:1\n" in script
    assert "--exclusive" not in script
    assert "timeout --kill-after=30 $granite41_seconds python -m recipes.cli eval" in script


def test_a_script_of_bare_nodes_within_nvlink_domains_and_fault_tolerance(tmp_path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(BARE_NODES)
    flags = ["--size", "3b", "--on", file, "--data", "/d", "--no-eval", "--init", "/c"]
    scripts = _dryrun("run", "phase4", *flags, "seed=7")
    headlines = [headline for headline in scripts if headline.startswith("phase4:")]
    assert headlines == ["phase4: 128 x 4 on p"]
    _require_snapshot("bare", scripts["phase4: 128 x 4 on p"])


def test_a_dry_run_of_a_tokenization(tmp_path) -> None:
    inputs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in inputs:
        path.write_text("text")
    run_folder = tmp_path / "run"
    flags = ["--output", tmp_path / "out", "--tokenizer", tmp_path, "--workers", "3"]
    cluster = tmp_path / "c.yaml"
    cluster.write_text((CLUSTERS / "cpu.yaml").read_text() + "\narray_throttle: 1\n")
    where = ["--on", cluster, "--run-dir", run_folder]
    scripts = _dryrun("data", "tokenize", "--input", *inputs, *flags, "--shards", "2", *where)
    (script,) = scripts.values()
    assert "#SBATCH --array=0-1%1\n" in script
    assert "--workers 3 --shard=$SLURM_ARRAY_TASK_ID" in script
    assert not run_folder.exists()


def test_scripts_of_a_curation_and_its_judge(tmp_path) -> None:
    inputs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in inputs:
        path.write_text("{}")
    cluster = tmp_path / "c.yaml"
    cluster.write_text(BARE_NODES)
    judge = ["--serve", "some/judge", "--vllm", "/opt/vllm/bin/vllm", "--max-tokens", "9"]
    flags = ["--output", tmp_path / "out", "--shards", "2", "--ngram-words", "8", *judge]
    where = ["--on", cluster, "--run-dir", tmp_path / "run"]
    scripts = _dryrun("data", "curate", "--input", *inputs, *flags, *where)
    assert [headline.partition(" on p")[0] for headline in scripts] == [
        "rules: 1 x 1",
        "duplicates: 1 x 1",
        "judge: 1 x 1",
        "selection: 1 x 1",
    ]
    by_name = {headline.partition(":")[0]: script for headline, script in scripts.items()}
    for name in ("rules", "selection"):
        assert "#SBATCH --array=0-1\n" in by_name[name]
        assert "--shard=$SLURM_ARRAY_TASK_ID" in by_name[name]
    assert "--max-tokens" not in by_name["rules"] + by_name["duplicates"]
    assert "#SBATCH --gres=gpu:4\n" in by_name["judge"]
    for name in ("judge", "selection"):
        _require_snapshot(f"curation-{name}", by_name[name].replace(str(tmp_path), "/shared/me"))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_an_evaluation(tmp_path) -> None:
    run_folder = tmp_path / "run"
    flags = ["--model", tmp_path, "--size", "tiny", "--lengths", "256", "384"]
    where = ["--on", "cpu", "--run-dir", run_folder]
    scripts = _dryrun("eval", "long-context", *flags, *where)
    parts = "eval-long-context-256, eval-long-context-384"
    assert list(scripts)[-1] == f"eval-long-context: 1 x 1 on batch after {parts}"
    assert not run_folder.exists()


def test_rollout_servers(tmp_path) -> None:
    cluster = tmp_path / "c.yaml"
    servers = (
        'array_throttle: 1\nrollout_servers: {partition: gpu, time_limit: "04:00:00", gres: gpu:2}'
    )
    cluster.write_text((CLUSTERS / "h100.yaml").read_text() + servers)
    flags = ["--servers", "4", "--max-length", "8192", "--tensor-parallel", "2"]
    flags += ["--python", "/opt/vllm/bin/python", "--vllm-options", "--dtype bfloat16"]
    folder = "/r/8b/rl_math/rollout"
    scripts = _dryrun(
        "rollout-server", folder, "--model", "/r/8b/rl_chat/hf", "--on", cluster, *flags
    )
    assert list(scripts) == ["servers: 1 x 1 on gpu"]
    # a trainer waits for all of them, so none waits for another
    assert "#SBATCH --array=0-3\n" in scripts["servers: 1 x 1 on gpu"]
    _require_snapshot("rollout-servers", scripts["servers: 1 x 1 on gpu"])


def test_a_dry_run_loads_neither_nemo_nor_torch() -> None:
    command = [sys.executable, "-c", LIST_MODULES_OF_A_DRY_RUN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['torchx']"
