"""``granite41 list`` and ``show`` against an interpreter that does nothing.

    python benchmarks/cli.py [--runs 20]

Method: the wall time of a process from its start to its end, with its output thrown away: ``python
-c pass`` and the commands below, all with this interpreter on this machine. One run of each goes
first and is left out; then all of them are run in turn (A B C D A B C D ...), ``--runs`` times
each. The table gives medians, ranges, and the ratio of each median to that of ``python -c pass``.
"""

import argparse
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from recipes.common.cpus import usable_cpus
from recipes.common.tables import print_table

COMMANDS = ("list", "list --json", "show phase1 --size 8b")
BASELINE = "python -c pass"


def report(columns: list[str], rows: list[list[str]], *details: str) -> None:
    """Print a table of figures, the machine they are of and the command that repeats them."""
    names = [
        line.split(": ", 1)[1]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    processor = names[0] if names else platform.machine()
    print_table(columns, rows)
    print("machine:", ", ".join((f"{usable_cpus()} cores", processor, *details)))
    print("command:", shlex.join(["python", *sys.argv]), flush=True)


def wall_time(command: list[str]) -> float:
    """Return the seconds that ``command`` takes; it must succeed."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="of each command (20)")
    options = parser.parse_args()
    script = Path(sys.executable).with_name("granite41")
    if not script.exists():
        parser.error(
            f"no {script}: install the package with `pip install -e .` and run this with its "
            f"interpreter"
        )
    commands = {BASELINE: [sys.executable, "-c", "pass"]} | {
        f"granite41 {words}": [sys.executable, str(script), *words.split()] for words in COMMANDS
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(1 + options.runs):
        for name, command in commands.items():
            taken = wall_time(command)
            if run:
                seconds[name].append(taken)
    baseline = statistics.median(seconds[BASELINE])
    rows = [
        [
            name,
            *(f"{1000 * value:.1f}" for value in (median, min(taken), max(taken))),
            f"{median / baseline:.2f}",
        ]
        for name, taken in seconds.items()
        for median in [statistics.median(taken)]
    ]
    report(
        ["command", "median ms", "min ms", "max ms", f"x {BASELINE}"],
        rows,
        f"Python {platform.python_version()}",
    )


if __name__ == "__main__":
    main()
