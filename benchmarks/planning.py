"""``granite41 plan`` and ``check``: time and memory of each command, in a process of its own.

    python benchmarks/planning.py [--size 30b] [--runs 3]

Method: the wall time of a process from its start to its end, and the most memory that it held
(``ru_maxrss`` of the child), with its output thrown away; the median of ``--runs`` runs of each
command. ``check`` builds the model of the first and last rank of every pipeline stage at the
recipe's world size, ``--trace`` runs a whole training step of a rank on fake tensors as well.
"""

import argparse
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time

from cli import report


def run(words: list[str]) -> tuple[float, float]:
    """Run a command and return its seconds and its peak memory in GB; it must succeed."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "recipes.cli", *words]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - start
    # of the largest child so far, which is this one in a fresh process
    return seconds, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e9


def measure(words: str, runs: int) -> list[str]:
    """Return the row of a command."""
    seconds = []
    memory = []
    context = multiprocessing.get_context("spawn")
    for _ in range(runs):
        with context.Pool(1) as pool:
            taken, held = pool.apply(run, (words.split(),))
        seconds.append(taken)
        memory.append(held)
    median = statistics.median(seconds)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    return [f"granite41 {words}", f"{median:.2f}", spread, f"{max(memory):.2f}"]


def main() -> None:
    """Run the commands and print their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="30b", help="of the checked stage (30b)")
    parser.add_argument("--stage", default="phase1", help="that is checked (phase1)")
    parser.add_argument("--runs", type=int, default=3, help="of each command (3)")
    options = parser.parse_args()
    check = f"check --size {options.size} --stage {options.stage}"
    commands = [
        f"plan --size {options.size}",
        f"plan {options.stage} --size {options.size} --search",
        check,
        f"{check} --trace",
    ]
    rows = [measure(words, options.runs) for words in commands]
    report(["command", "median s", "min to max s", "peak GB"], rows)


if __name__ == "__main__":
    main()
