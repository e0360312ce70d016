"""``granite41 data curate`` by rules and duplicates: conversations a second, and peak memory.

    python benchmarks/curation.py [--conversations 100000 1000000] [--workers 2]

Method: a file of seeded conversations of one to four turns and 2.2 KB on average; a third of them
declare two of 50 tools and call one, a tenth hold letters that are not normalized, one in 50 breaks
a rule, one in ten repeats an earlier one. The command is a whole process that reads it, passes each
conversation through all rules, finds the duplicates of all of them and writes kept ones, audit and
report. Memory is that of the largest of its processes (``ru_maxrss``). The limit is a loop that
reads and writes the same lines with orjson in one process.
"""

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from cli import report, wall_time

from recipes.runs.curated_folder import CurationManifest

WORDS = 5000
TOOLS = 50


def tool(number: int) -> dict[str, Any]:
    """Return the schema of a tool."""
    properties = {
        "query": {"type": "string", "description": "What to look for."},
        "limit": {"type": "integer", "minimum": 1, "maximum": 10 + number},
    }
    parameters = {"type": "object", "properties": properties, "required": ["query"]}
    return {"type": "function", "function": {"name": f"tool_{number}", "parameters": parameters}}


def conversations(count: int) -> Iterator[dict[str, Any]]:
    """Yield records."""
    draw = random.Random(7)
    words = [f"word{number}" for number in range(WORDS)]
    tools = [tool(number) for number in range(TOOLS)]
    former: list[dict[str, Any]] = []

    def text(most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(most // 4, most)))

    for number in range(count):
        if former and draw.random() < 0.1:
            yield draw.choice(former)
            continue
        messages: list[dict[str, Any]] = []
        record: dict[str, Any] = {"id": number, "messages": messages}
        has_tools = draw.random() < 1 / 3
        if has_tools:
            record["tools"] = draw.sample(tools, 2)
        for _ in range(draw.randint(1, 4)):
            messages.append({"role": "user", "content": text(40)})
            if has_tools:
                name = record["tools"][0]["function"]["name"]
                # a limit that no schema allows, now and then
                limit = 0 if draw.random() < 0.03 else 5
                arguments = {"query": text(5), "limit": limit}
                call = {"function": {"name": name, "arguments": arguments}}
                messages.append({"role": "assistant", "tool_calls": [call]})
                messages.append({"role": "tool", "content": text(20)})
            mark = "e\u0301" if draw.random() < 0.04 else "."
            messages.append({"role": "assistant", "content": text(80) + mark})
        # a window, so that the generator's own memory is bounded
        former = [*former[-999:], record]
        yield record


def write(file: Path, count: int) -> None:
    """Write conversations as JSON lines."""
    with file.open("wb") as stream:
        for record in conversations(count):
            stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def copy_time(file: Path, target: Path) -> float:
    """Return the seconds of reading and writing each line as a value."""
    start = time.perf_counter()
    with file.open("rb") as source, target.open("wb") as stream:
        for line in source:
            stream.write(orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE))
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    rows = []
    # the smallest first, as the kernel keeps the largest memory of all processes so far
    for count in sorted(options.conversations):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            file = folder / "a.jsonl"
            write(file, count)
            limit = copy_time(file, folder / "copy")
            script = Path(sys.executable).with_name("granite41")
            words = ["data", "curate", "--input", file, "--output", folder / "out"]
            words += ["--workers", options.workers]
            seconds = wall_time([str(script), *map(str, words)])
            peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            manifest = CurationManifest.read_from(folder / "out")
            assert manifest.read == count
            row = [
                f"{count:,}",
                f"{file.stat().st_size / 1e6:,.0f}",
                f"{seconds:,.1f}",
                f"{count / seconds:,.0f}",
                f"{seconds / limit:.1f}",
                f"{peak / 1e6:,.0f}",
                f"{manifest.kept:,}",
            ]
            rows.append(row)
    columns = ["conversations", "MB", "seconds", "a second", "x a copy", "peak MB", "kept"]
    load, _, _ = os.getloadavg()
    report(columns, rows, f"{options.workers} workers", f"load {load:.1f}")


if __name__ == "__main__":
    main()
