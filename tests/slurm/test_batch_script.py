"""Batch scripts equal their snapshots.

``UPDATE_SNAPSHOTS=1 pytest FILE`` writes the snapshots anew, for a reader to compare.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SNAPSHOTS = Path(__file__).parent / "snapshots"
FIXED = {"GRANITE41_COMMIT": "0123456789abcdef", "USER": "somebody"}


def _dryrun(*words: str) -> dict[str, str]:
    """Return the text of each job that a dry run prints, by its headline."""
    command = [sys.executable, "-m", "recipes.cli", *words, "--dryrun"]
    done = subprocess.run(command, env=os.environ | FIXED, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    headline, *rest = re.split(r"^==== (.*)\n", done.stdout, flags=re.MULTILINE)
    assert headline == ""
    return dict(zip(rest[::2], rest[1::2], strict=True))


@pytest.fixture(scope="module")
def chain() -> dict[str, str]:
    return _dryrun(
        "run",
        "phase1..lce_512k",
        "--size",
        "8b",
        "--on",
        "h100",
        "--data",
        "/lustre/data",
        "--run-dir",
        "/r/8b",
    )


def test_every_job_of_the_chain_with_its_nodes(chain) -> None:
    heads = dict(headline.split(": ", 1) for headline in chain)
    # 1,024 GPUs for 512 replicas of two, on nodes of eight
    assert heads["phase1"] == "128 x 8 on batch"
    assert heads["phase2"] == "128 x 8 on batch after phase1-gate"
    assert heads["lce_512k-merge"] == "1 x 1 on cpu after lce_512k"
    assert heads["lce_512k-gate"].startswith("1 x 1 on cpu after lce_512k-")
    assert heads["phase1-base"] == "1 x 1 on batch after phase1-export, ruler"


@pytest.mark.parametrize("job", ["phase1", "lce_32k-merge", "lce_32k-long-context"])
def test_scripts_of_a_cluster_with_containers(chain, job) -> None:
    _compare(job, next(text for headline, text in chain.items() if headline.startswith(f"{job}:")))


def test_a_script_of_bare_nodes_within_nvlink_domains_and_fault_tolerance(tmp_path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        """\
account: a
folder: /shared
scratch: /tmp/scratch
python: /opt/granite41/bin/python
modules: [cuda/12.8]
launcher: fault_tolerant
environment: {NCCL_DEBUG: "it's fine"}
compute: {partition: p, time_limit: "1-00:00:00", gpu_type: gb200, gpus_per_node: 4, gres: "gpu:4", segment: 16}
"""
    )
    written = _dryrun(
        "run",
        "phase4",
        "--size",
        "3b",
        "--on",
        str(file),
        "--data",
        "/d",
        "--no-eval",
        "--init",
        "/c",
        "seed=7",
    )
    assert [headline for headline in written if headline.startswith("phase4:")] == [
        "phase4: 128 x 4 on p"
    ]
    _compare("bare", written["phase4: 128 x 4 on p"])


def test_dry_runs_of_tokenization_and_of_an_evaluation(tmp_path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("text")
    words = [
        "--input",
        *map(str, tmp_path.iterdir()),
        "--output",
        str(tmp_path / "out"),
        "--tokenizer",
        str(tmp_path),
    ]
    words = [
        "data",
        "tokenize",
        *words,
        "--on",
        "cpu",
        "--run-dir",
        str(tmp_path / "run"),
        "--workers",
        "3",
        "--shards",
        "2",
    ]
    (script,) = _dryrun(*words).values()
    assert "#SBATCH --array=0-1\n" in script
    assert "--workers=3 --shard=$SLURM_ARRAY_TASK_ID" in script
    words = [
        "eval",
        "long-context",
        "--model",
        str(tmp_path),
        "--size",
        "tiny",
        "--lengths",
        "256",
        "384",
    ]
    found = _dryrun(*words, "--on", "cpu", "--run-dir", str(tmp_path / "run"))
    assert (
        list(found)[-1]
        == "eval-long-context: 1 x 1 on batch after eval-long-context-256, eval-long-context-384"
    )
    assert not (tmp_path / "run").exists()


def test_a_dry_run_loads_neither_nemo_nor_torch() -> None:
    program = (
        "import sys; sys.argv = ['granite41', 'run', 'phase1', '--size', 'tiny', '--on', 'cpu', '--dryrun']\n"
        "from recipes.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('nemo', 'torch', 'megatron', 'torchx') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "['torchx']"


def _compare(name: str, text: str) -> None:
    path = SNAPSHOTS / f"{name}.sh"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
