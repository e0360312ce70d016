"""The benchmarks run to their end with their smallest settings and print figures; how large these
are is no test's.
"""

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep import tiny

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Started = dict[str, tuple[subprocess.Popen, Path]]


OPTIONS = {
    "cli.py": ["--runs", "1"],
    "judge.py": ["--samples", "20", "--in-flight", "10", "--seconds", "0.1", "--rounds", "1"],
    "rewards.py": ["--prompts", "4", "--samples", "2", "--rounds", "1"],
    "sft.py": ["--steps", "1", "--blocks", "2"],
    "training.py": ["--steps", "1", "--blocks", "2"],
    "gpu_calibration.py": ["--layers", "1", "--sequence-lengths", "32", "64", "--steps", "1"],
    "planning.py": ["--size", "tiny", "--runs", "1"],
    "export.py": ["--params", "1", "--rounds", "1"],
    "merge.py": ["--params", "1", "--rounds", "1"],
    "tokenization.py": [
        *(
            "--megabytes",
            "0.5",
            "--large",
            "1",
            "--vocab-size",
            "1000",
            "--training-megabytes",
            "0.5",
            "--rounds",
            "2",
        ),
    ],
    "curation.py": ["--conversations", "50", "100", "--workers", "1"],
    "conversations.py": ["--lengths", "1000", "--conversations", "20"],
    "rollout.py": [
        *("--prompts", "2", "--samples", "2", "--tokens", "8", "--rounds", "1", "--params", "1"),
    ],
    "packed.py": ["--rounds", "1"],
    "data_module.py": ["--shards", "2", "3", "--rounds", "1"],
    "checkpoint.py": ["--params", "1", "--saves", "1"],
    "pipeline.py": ["--rounds", "1", "--tokens", "8192"],
    "ruler.py": [
        *(
            "--lengths",
            "1024",
            "--samples",
            "2",
            "--theirs",
            "1",
            "--tasks",
            "fwe",
            "qa_1",
            "vt",
            "--timeout",
            "30",
        ),
    ],
    "eval_runner.py": [
        "--rounds",
        "1",
        "--length",
        "256",
        "--samples",
        "1",
        "--tasks",
        "vt",
        "fwe",
    ],
}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Every benchmark in a process of its own, all at once: most of their time is NeMo's import, on
    one core.
    """
    folder = tmp_path_factory.mktemp("benchmarks")
    text = folder / "text"
    text.mkdir()
    for source in (BENCHMARKS.parent / "recipes").rglob("*.py"):
        (text / f"{source.parent.name}_{source.name}").write_bytes(source.read_bytes())
    tiny.prepare(folder / "data", text=text)
    processes = {}
    for script, options in OPTIONS.items():
        data = ["--data", str(folder / "data")] if script in ("training.py", "pipeline.py") else []
        data += ["--tokenizer", str(folder / "data/tokenizer")] if script == "ruler.py" else []
        processes[script] = subprocess.Popen(
            [sys.executable, str(BENCHMARKS / script), *options, *data],
            stdout=(folder / f"{script}.out").open("w+"),
            stderr=(folder / f"{script}.err").open("w+"),
            text=True,
        )
    yield {script: (process, folder) for script, process in processes.items()}
    for process in processes.values():
        process.kill()


def printed(started: Started, script: str) -> str:
    """Return what a benchmark printed; it must have succeeded."""
    process, folder = started[script]
    assert process.wait(timeout=500) == 0, (folder / f"{script}.err").read_text()[-4000:]
    return (folder / f"{script}.out").read_text()


def rows(out: str) -> dict[str, list[float]]:
    """Return the rows of every table of ``out``: the first cell, and the others as numbers without
    the dashes.
    """
    found = {}
    for table in re.findall(r"^ ─+ *\n((?:  .*\S.*\n)+)", out, flags=re.MULTILINE):
        for line in table.splitlines():
            name, *cells = re.split(r" {2,}", line.strip())
            found[name] = [float(cell.replace(",", "")) for cell in cells if cell != "-"]
    return found


def assert_positive(figures: dict[str, list[float]]) -> None:
    for name, values in figures.items():
        assert values, name
        assert all(math.isfinite(value) and value > 0 for value in values), (name, values)


def test_rollout(started) -> None:
    figures = rows(printed(started, "rollout.py"))
    # of generation, and of the refresh in megabytes
    assert list(figures)[:2] == ["equal", "mixed"]
    assert len(figures) == 3
    assert_positive(figures)


def test_cli(started) -> None:
    out = printed(started, "cli.py")
    figures = rows(out)
    assert list(figures) == [
        "python -c pass",
        "granite41 list",
        "granite41 list --json",
        "granite41 show phase1 --size 8b",
    ]
    assert_positive(figures)
    for name, (median, low, high, ratio) in figures.items():
        assert low <= median <= high, name
        assert ratio == pytest.approx(median / figures["python -c pass"][0], abs=0.02), name
    assert "\nmachine: " in out
    assert re.search(r"^command: python .*benchmarks/cli.py --runs 1$", out, flags=re.MULTILINE)


def test_judge(started) -> None:
    figures = rows(printed(started, "judge.py"))
    assert list(figures) == ["ideal", "best", "median", "worst", "from the cache"]
    # two waves of a tenth of a second, and the probe's
    assert figures["ideal"][0] == pytest.approx(0.3)
    assert figures["ideal"][0] <= figures["best"][0] <= figures["worst"][0]
    assert 0 < figures["median"][1] <= figures["median"][0]


def test_rewards(started) -> None:
    figures = rows(printed(started, "rewards.py"))
    assert "math, expressions" in figures
    assert len(figures) == 12
    assert_positive(figures)


def test_packed(started) -> None:
    figures = rows(printed(started, "packed.py"))
    assert_positive(figures)
    packed, to_longest, to_sequence = figures.values()
    assert packed[-1] == 1
    for rate, _, ratio in (to_longest, to_sequence):
        assert ratio == pytest.approx(packed[0] / rate, rel=0.01)


def test_training(started) -> None:
    out = printed(started, "training.py")
    figures = rows(out)
    assert_positive(figures)
    parts = ["forward, ms", "backward, ms", "optimizer, ms", "data, ms", "rest, ms"]
    for side in (0, 1):
        # one block is measured, so that the medians of the parts add up
        assert figures["step, ms"][side] == pytest.approx(
            sum(figures[part][side] for part in parts), abs=0.01
        )
    ours, theirs, ratio = figures["tokens/s"]
    assert ratio == pytest.approx(ours / theirs, abs=0.02)
    assert ours * figures["step, ms"][0] / 1000 == pytest.approx(8192, rel=0.01)
    with_mode, without, _ = figures["forward and backward, ms"]
    assert with_mode > 0 < without
    assert figures["calls in forward and backward"][0] > 100
    # both sides begin at chance: log 2048 = 7.6
    assert all(5 < loss < 10 for loss in figures["loss of the last step"])


def test_sft(started) -> None:
    figures = rows(printed(started, "sft.py"))
    assert_positive(figures)
    stage, alone, ratio = figures["ms"]
    # one block is measured
    assert ratio == pytest.approx(stage / alone, rel=0.01)


def test_gpu_calibration(started) -> None:
    out = printed(started, "gpu_calibration.py")
    figures = rows(out)
    assert_positive(figures)
    assert list(figures) == ["tiny 1 x 32", "tiny 1 x 64"]
    for length, row in zip((32, 64), figures.values(), strict=True):
        step, speed, reached, ceiling, share = row[:5]
        # four micro-batches of one sequence a step
        assert speed == pytest.approx(4 * length / step * 1000, rel=0.02)
        # embedding, queries and output, keys and values, three matrices of the MLP; attention
        matrices = 2048 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192
        flops = 6 * matrices + 6 * length * 64
        assert reached == pytest.approx(speed * flops / 1e12, rel=0.01)
        assert share == pytest.approx(100 * reached / ceiling, rel=0.01)
    assert "no CUDA here" in out


def test_planning(started) -> None:
    out = printed(started, "planning.py")
    lines = [line for line in out.splitlines() if line.strip().startswith("granite41 ")]
    assert [line.split("  ")[1].split()[1] for line in lines] == ["plan", "plan", "check", "check"]
    for line in lines:
        *_, median, spread, memory = [cell for cell in line.split("  ") if cell.strip()]
        assert float(median) > 0
        assert float(spread.split()[0]) <= float(median)
        assert 0 < float(memory) < 10


def test_export(started) -> None:
    out = printed(started, "export.py")
    figures = dict(
        re.findall(
            r"^(export|copy|export / copy|peak memory of the export): ([\d.]+)", out, re.MULTILINE
        )
    )
    assert len(figures) == 4, out
    assert_positive({name: [float(value)] for name, value in figures.items()})


def test_merge(started) -> None:
    figures = rows(printed(started, "merge.py"))
    assert_positive(figures)
    assert list(figures) == ["copy", "granite41 merge, linear", "granite41 merge, slerp"]
    # embedding; queries and output, keys and values, three matrices of the MLP, norms; the last
    # norm
    parameters = 12544 * 320 + (2 * 320 * 320 + 2 * 64 * 320 + 3 * 320 * 1024 + 2 * 320) + 320
    for name, (seconds, speed, ratio, memory) in figures.items():
        assert ratio == pytest.approx(seconds / figures["copy"][0], rel=0.2), name
        # in MB; torch alone takes more than the copy
        assert memory > (10 if name == "copy" else 100), name
        assert seconds * speed == pytest.approx(3 * 2 * parameters / 1e6, rel=0.2), name


def test_data_module(started) -> None:
    figures = rows(printed(started, "data_module.py"))
    assert_positive(figures)
    assert list(figures) == [
        f"{shards} shards, {state}" for shards in (2, 3) for state in ("cold", "warm")
    ]
    for name, (ours, ours_each, peer, peer_each, ratio) in figures.items():
        shards = int(name.split()[0])
        assert ours_each == pytest.approx(1000 * ours / shards, abs=0.5), name
        assert peer_each == pytest.approx(1000 * peer / shards, abs=0.5), name
        assert ratio == pytest.approx(ours / peer, rel=0.25), name


def test_tokenization(started) -> None:
    out = printed(started, "tokenization.py")
    figures = rows(out)
    assert_positive(figures)
    assert list(figures) == [
        "granite41 data tokenize",
        "file copy",
        "granite41 data tokenize, 1 MB",
    ]
    seconds, speed, ratio, memory = figures["granite41 data tokenize"]
    # half a megabyte and a part of a document; the speed has two decimals, which are few on a busy
    # machine
    assert 0.3 < seconds * speed < 1.5
    assert ratio == 1.0
    assert memory > 50
    assert re.search(r"memory [\d.]+ times that of", out)


def test_checkpoint(started) -> None:
    out = printed(started, "checkpoint.py")
    figures = rows(out)
    parts = {
        name: figures.pop(name)[0]
        for name in list(figures)
        if ": " in name or name.startswith("removal")
    }
    # what training lost to the save is the difference of two measured steps, and other is what is
    # left of it
    stall, stall_ms, other = (
        figures.pop(name) for name in ("stall of training", "the stall", "other")
    )
    assert_positive(figures)
    assert len(parts) == 6
    assert stall_ms[0] == pytest.approx(1000 * stall[0], rel=0.01)
    assert sum(parts.values()) + other[0] == pytest.approx(stall_ms[0], abs=0.1)
    assert sum(parts.values()) - parts["removal of the oldest"] == pytest.approx(
        1000 * figures["save"][0], rel=0.01
    )
    megabytes = float(re.search(r"^ +([\d.]+) MB ", out, flags=re.MULTILINE)[1])
    # weights and both moments in fp32, and what else a checkpoint holds
    assert 12 * 328256 / 1e6 < megabytes < 1.5 * 12 * 328256 / 1e6
    for name, limit in (
        ("save", "copy with fsync"),
        ("load, cold", "plain read, cold"),
        ("load, warm", "plain read, warm"),
    ):
        seconds, low, high, speed, ratio = figures[name]
        assert seconds == low == high, name
        assert seconds * speed == pytest.approx(megabytes, rel=0.05), name
        assert ratio == pytest.approx(seconds / figures[limit][0], rel=0.05), name
    assert re.search(
        r"^peak memory of a save: [\d.,]+ MB above the [\d,]+\.\d MB before it$",
        out,
        flags=re.MULTILINE,
    )


def test_pipeline(started) -> None:
    out = printed(started, "pipeline.py")
    figures = rows(out)
    assert_positive(figures)
    assert list(figures) == [
        "llm.pretrain by hand",
        "granite41 run, until trained",
        "granite41 run, whole",
    ]
    hand, trained, whole = (values[0] for values in figures.values())
    assert trained < whole
    assert figures["granite41 run, until trained"][-1] == pytest.approx(trained / hand, abs=0.01)
    overhead = re.search(
        r"^overhead until the stage is trained: (-?[\d.]+) %$", out, flags=re.MULTILINE
    )
    assert float(overhead[1]) == pytest.approx(100 * (trained / hand - 1), abs=0.5)


def test_ruler(started) -> None:
    out = printed(started, "ruler.py")
    figures = rows(out)
    names = [f"{task} at 1024" for task in ("fwe", "qa_1", "vt", "all")]
    assert list(figures) == [*names, "generate at 1024"]
    # lm-eval's search for a size may not end, which a dash says
    assert_positive(figures)
    ours = [figures[name][:2] for name in names[:-1] if len(figures[name]) > 2]
    assert figures["all at 1024"][1] == pytest.approx(sum(sample for _, sample in ours), abs=5e-5)


def test_eval_runner(started) -> None:
    out = printed(started, "eval_runner.py")
    figures = rows(out)
    assert_positive(figures)
    hand, command, start = figures.values()
    assert list(figures) == [
        "lm-eval by hand",
        "granite41 eval",
        "granite41 eval, until the first request",
    ]
    assert start[0] < command[0]
    assert command[-1] == pytest.approx(command[0] / hand[0], abs=0.01)
    overhead = re.search(r"^overhead of the runner: (-?[\d.]+) %$", out, flags=re.MULTILINE)
    assert float(overhead[1]) == pytest.approx(100 * (command[0] / hand[0] - 1), abs=0.5)
