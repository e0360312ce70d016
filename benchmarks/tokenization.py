"""Tokenization from JSON lines to .bin/.idx, end to end: against Megatron-LM's own tool,
datatrove's and a file copy.

    python benchmarks/tokenization.py --megatron-lm CHECKOUT --datatrove PYTHON [--megabytes 200]
    [--large 2000]

Method: the text is the Python source of this environment's packages as JSON lines, each document
once; the tokenizer is byte-level BPE with ``--vocab-size`` entries, trained on a part of it. A
contestant is a whole process, from its start to its end, with 2 worker processes, and its speed is
the input file's bytes over its wall time:

- ``granite41 data tokenize``, which also checks a sample against the reference and writes manifests
with SHA-256;
- ``tools/preprocess_data.py --append-eod`` of a Megatron-LM checkout (core_v0.13.1), run by this
  interpreter; what it wrote is compared with what the first wrote, byte for byte;
- ``MegatronDocumentTokenizer`` of datatrove in an environment of its own, as the releases that have
  it need numpy 2 (``pip install "datatrove[processing,io]==0.10.1"``; name its interpreter);
- ``shutil.copyfile`` of the input, in a process of its own.

All read the input from the page cache. The first and the last are run ``--rounds`` times in turn,
before and after the slow ones, which run once; medians are printed. A contestant that is not named
is not measured.

Memory: the largest process of a run (the kernel's high-water mark of resident memory, as wait4
gives it), for ``--megabytes`` and for ``--large`` MB, which repeats the same documents: the words
that an encoder remembers are forgotten every 48M characters, so that a document that comes again is
new again.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from cli import report

from data_prep import tokenizer

WORKERS = 2

DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer
if __name__ == "__main__":
    source, output, tokenizer, end_of_text = sys.argv[1:]
    LocalPipelineExecutor(
        [
            JsonlReader(source, glob_pattern="*.jsonl"),
            MegatronDocumentTokenizer(
                output, tokenizer_name_or_path=tokenizer, eos_token=end_of_text
            ),
        ],
        tasks=2, workers=2, logging_dir=output + "/logs",
    ).run()
"""


def sources() -> Iterator[str]:
    """Yield the Python files of this environment and of Python's own library, sorted by path."""
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        for file in sorted(Path(folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8", errors="ignore")
            if len(text) > 100:
                yield text


def write_input(path: Path, megabytes: float, texts: list[str]) -> None:
    """Write JSON lines of about ``megabytes``: ``texts``, as often as it takes."""
    written = 0
    with path.open("w") as stream:
        for text in cycle(texts):
            written += stream.write(json.dumps({"text": text}) + "\n")
            if written > megabytes * 1e6:
                return


def make(folder: Path, options: argparse.Namespace) -> None:
    """Write ``folder``'s source.jsonl, large.jsonl and tokenizer."""
    texts, total = [], 0
    for text in sources():
        texts.append(text)
        total += len(text)
        if total > 1e6 * max(options.training_megabytes, options.megabytes):
            break
    step = max(1, round(total / 1e6 / options.training_megabytes))
    tokenizer.train(texts[::step], options.vocab_size, folder / "tokenizer")
    write_input(folder / "source.jsonl", options.megabytes, texts)
    write_input(folder / "large.jsonl", options.large, texts)


def run(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Run ``command``; return its seconds and the largest resident memory of one of its processes,
    in MB.
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)}: {errors.read().decode()[-2000:]}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


class Contest:
    """The contestants on one input."""

    def __init__(self, folder: Path, source: Path, tokenizer_folder: Path) -> None:
        self.folder, self.source, self.tokenizer = folder, source, tokenizer_folder
        self.output = folder / "output"

    def ours(self) -> tuple[float, float]:
        """``granite41 data tokenize``; its output stays until the next run."""
        shutil.rmtree(self.output, ignore_errors=True)
        script = str(Path(sys.executable).with_name("granite41"))
        words = [
            "--tokenizer",
            self.tokenizer,
            "--input",
            self.source,
            "--output",
            self.output,
            "--workers",
            WORKERS,
        ]
        return run([script, "data", "tokenize", *map(str, words)])

    def copy(self) -> tuple[float, float]:
        """A copy of the input."""
        target = self.folder / "copy"
        code = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"
        result = run([sys.executable, "-c", code, str(self.source), str(target)])
        target.unlink()
        return result

    def megatron(self, checkout: Path) -> tuple[float, float, bool]:
        """Megatron-LM's tool, and whether its files hold what ours do."""
        prefix = self.folder / "megatron"
        words = [
            "--input",
            self.source,
            "--output-prefix",
            prefix,
            "--append-eod",
            "--workers",
            WORKERS,
        ]
        words += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", self.tokenizer]
        script = str(checkout / "tools/preprocess_data.py")
        result = run([sys.executable, script, *map(str, words)], {"PYTHONPATH": str(checkout)})
        theirs = Path(f"{prefix}_text_document.bin")
        with theirs.open("rb") as stream:
            same = all(
                file.read_bytes() == stream.read(file.stat().st_size)
                for file in sorted(self.output.glob("*.bin"))
            )
            same = same and not stream.read(1)
        theirs.unlink()
        return *result, same

    def datatrove(self, python: Path) -> tuple[float, float]:
        """datatrove's tokenizer for Megatron, on the input in as many files as it has workers."""
        inputs, output = self.folder / "datatrove_in", self.folder / "datatrove_out"
        inputs.mkdir()
        with self.source.open("rb") as stream:
            parts = [(inputs / f"{worker}.jsonl").open("wb") for worker in range(WORKERS)]
            for number, line in enumerate(stream):
                parts[number % WORKERS].write(line)
            for part in parts:
                part.close()
        script = self.folder / "datatrove_job.py"
        script.write_text(DATATROVE)
        words = [inputs, output, self.tokenizer / "tokenizer.json", tokenizer.END_OF_TEXT]
        result = run([str(python), str(script), *map(str, words)])
        shutil.rmtree(inputs)
        shutil.rmtree(output)
        return result


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument(
        "--large", type=float, default=2000, help="for the memory alone; 0 leaves it out"
    )
    parser.add_argument("--vocab-size", type=int, default=100352)
    parser.add_argument(
        "--training-megabytes", type=float, default=60, help="of text, to train the tokenizer on"
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--megatron-lm", type=Path, help="a checkout of Megatron-LM core_v0.13.1")
    parser.add_argument(
        "--datatrove", type=Path, help="a Python interpreter that has datatrove 0.10.1"
    )
    parser.add_argument("--scratch", type=Path, help="folder for the files (the temporary one)")
    options = parser.parse_args()
    if importlib.util.find_spec("gigatoken") is None:
        parser.error("gigatoken is not installed: install requirements.txt")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        # in a process of its own: a child's high-water mark begins with its parent's memory
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(folder, options))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(f"the input could not be made: exit status {maker.exitcode}")
        source = folder / "source.jsonl"
        size = source.stat().st_size / 1e6
        contest = Contest(folder, source, folder / "tokenizer")
        contest.copy()
        ours, copies = [], []
        rows, notes = [], []

        def rounds() -> None:
            for _ in range(max(1, options.rounds // 2)):
                ours.append(contest.ours())
                copies.append(contest.copy())

        rounds()
        slow: dict[str, tuple[float, float]] = {}
        if options.megatron_lm:
            *figures, same = contest.megatron(options.megatron_lm)
            slow["Megatron-LM preprocess_data.py"] = (figures[0], figures[1])
            notes.append(
                f"tokens on disk {'identical to' if same else 'DIFFERENT from'} Megatron-LM's"
            )
        if options.datatrove:
            slow["datatrove MegatronDocumentTokenizer"] = contest.datatrove(options.datatrove)
        rounds()
        fastest = statistics.median(seconds for seconds, _ in ours)
        contestants = {
            "granite41 data tokenize": (fastest, max(memory for _, memory in ours)),
            **slow,
            "file copy": (statistics.median(seconds for seconds, _ in copies), copies[0][1]),
        }
        for name, (seconds, memory) in contestants.items():
            rows.append(
                [
                    name,
                    f"{seconds:.2f}",
                    f"{size / seconds:.2f}",
                    f"{seconds / fastest:.3f}",
                    f"{memory:.0f}",
                ]
            )
        if options.large:
            source.unlink()
            contest.source = folder / "large.jsonl"
            seconds, memory = contest.ours()
            megabytes = contest.source.stat().st_size / 1e6
            rows.append(
                [
                    f"granite41 data tokenize, {megabytes:.0f} MB",
                    f"{seconds:.2f}",
                    f"{megabytes / seconds:.2f}",
                ]
            )
            rows[-1] += ["-", f"{memory:.0f}"]
            notes.append(
                f"memory {memory / contestants['granite41 data tokenize'][1]:.2f} times that "
                f"of {size:.0f} MB"
            )
        columns = [
            f"{size:.0f} MB of JSON lines",
            "seconds",
            "MB/s",
            "time / ours",
            "largest process, MB",
        ]
        report(columns, rows, f"{options.vocab_size:,} entries, {WORKERS} workers", *notes)


if __name__ == "__main__":
    main()
