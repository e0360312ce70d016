"""The client of the judge against a server of fixed latency.

    python benchmarks/judge.py [--samples 4096] [--in-flight 256] [--seconds 2] [--rounds 3]

Method: ``data_prep.conversations.judge.files.judge_files``, which is ``granite41 data judge``,
reads a file of conversations, asks a server process on this machine for each, and writes verdicts
and cache. The server answers each request after ``--seconds``, any number of them at a time. The
ideal is a client that costs nothing: ``samples / in_flight`` waves of ``--seconds``, and one of
them before for the probe. Medians and extremes of the rounds, each into a new folder; processor
time is the client's. A run over the filled cache follows, without a server.
"""

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cli import report

sys.path.insert(0, str(Path(__file__).parents[1]))
from data_prep.conversations.judge.client import Budget, Endpoint
from data_prep.conversations.judge.files import judge_files
from data_prep.conversations.judge.rubric import load_rubric
from tests.helpers.judge_server import judge_server


def write_conversations(file: Path, count: int) -> None:
    """Write conversations of 2 KB."""
    with file.open("w") as stream:
        for number in range(count):
            user = {"role": "user", "content": f"Question {number}: " + 80 * "some words "}
            assistant = {"role": "assistant", "content": 80 * "an answer "}
            stream.write(json.dumps({"messages": [user, assistant]}) + "\n")


def judge(file: Path, output: Path, url: str, in_flight: int) -> tuple[float, float]:
    """Return seconds and processor seconds of judging; every conversation must have a verdict."""
    start = time.perf_counter()
    processor = time.process_time()
    endpoint = Endpoint(url, "judge", in_flight)
    summary = asyncio.run(judge_files([str(file)], output, load_rubric(), endpoint, Budget()))
    assert summary.buckets["accept"] == summary.conversations
    return time.perf_counter() - start, time.process_time() - processor


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=4096, help="conversations (4096)")
    parser.add_argument("--in-flight", type=int, default=256, help="requests at a time (256)")
    parser.add_argument("--seconds", type=float, default=2, help="of each answer (2)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (3)")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "conversations.jsonl"
        write_conversations(file, options.samples)
        runs = []
        with judge_server(seconds=options.seconds) as url:
            for number in range(options.rounds):
                output = folder / f"out{number}"
                runs.append(judge(file, output, url, options.in_flight))
        cached = judge(file, folder / "out0", url, options.in_flight)

    waves = 1 + math.ceil(options.samples / options.in_flight)
    ideal = waves * options.seconds
    runs.sort()
    figures = {
        "ideal": (ideal, 0.0),
        "best": runs[0],
        "median": statistics.median_low(runs),
        "worst": runs[-1],
        "from the cache": cached,
    }
    rows = []
    for name, (seconds, processor) in figures.items():
        speed = f"{options.samples / seconds:.1f}"
        share = f"{100 * ideal / seconds:.1f}"
        rows.append([name, f"{seconds:.2f}", f"{processor:.2f}", speed, share])
    report(["run", "seconds", "processor s", "conversations/s", "% of the ideal"], rows)


if __name__ == "__main__":
    main()
