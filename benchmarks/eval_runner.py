"""``granite41 eval long-context`` against lm-eval by hand, and its time to the first request.

    python benchmarks/eval_runner.py [--rounds 3] [--length 2048] [--samples 8] [--tasks vt cwe ...]

Method: a model of random weights (4 layers, hidden size 64, 2,048 entries) and RULER's samples in
the published form, generated once before. Whole processes, from start to end, which write the same
kinds of files:

- by hand: a fresh Python that loads the model as lm-eval's ``hf`` and calls ``simple_evaluate``
  once, on the task files of all units, with only these files indexed, then saves results and
  samples;
- the command, in a fresh process and an empty folder, which checks the samples, scores unit after
  unit and gathers.

They take turns, ``--rounds`` times, and who goes first alternates; medians. lm-eval's own command
line adds 18 s to the first on two cores, as it indexes all of its tasks.

Start: from the start of ``granite41 eval`` to a unit's first request of a completion from a server
on this machine, with all samples generated (``--backend local-completions``, so that no model is
loaded).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from cli import report

sys.path.insert(0, str(Path(__file__).parents[1]))
from evaluation.ruler.generation import generate, read_metadata, samples_file
from evaluation.ruler.lm_eval_task import write_task_file
from evaluation.ruler.settings import TASKS
from evaluation.suites import get_suite
from tests.helpers.eval_models import write_model

# a size with all tasks of RULER in their published form
SIZE = "3b"
HAND = "lm-eval by hand"
COMMAND = "granite41 eval"
START = "granite41 eval, until the first request"
BY_HAND = """
import logging, sys
from lm_eval import simple_evaluate
from lm_eval.api.registry import get_model
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
logging.getLogger("lm_eval").setLevel(logging.WARNING)
model, positions, output, *files = sys.argv[1:]
arguments = {"pretrained": model, "max_length": int(positions), "dtype": "auto"}
lm = get_model("hf").create_from_arg_obj(arguments, {"batch_size": "1", "device": "cpu"})
tracker = EvaluationTracker(output_path=output + "/results.json")
manager = TaskManager(include_defaults=False)
results = simple_evaluate(model=lm, tasks=files, task_manager=manager, evaluation_tracker=tracker)
samples = results.pop("samples")
tracker.save_results_aggregated(results=results, samples=samples)
for task, found in samples.items():
    tracker.save_results_samples(task_name=task, samples=found)
assert len(samples) == len(files)
"""


@dataclass(frozen=True)
class Setup:
    """The files of the comparison and its two command lines.

    Attributes:
        output: folder that both write.
        log: receives their output.
        by_hand: lm-eval by hand.
        command: ``granite41 eval``.
    """

    output: Path
    log: Path
    by_hand: list[str]
    command: list[str]


def run_command(command: list[str], log: Path) -> float:
    """Run ``command`` and return its seconds; it must succeed."""
    with log.open("w") as file:
        start = time.perf_counter()
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        seconds = time.perf_counter() - start
    if code:
        raise SystemExit(f"{command[:3]} ended with {code}:\n{log.read_text()[-4000:]}")
    return seconds


def seconds_to_first_request(command: list[str], positions: int, log: Path) -> float:
    """Return the seconds from the start of ``command`` to its first request of a completion."""
    requested = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(b'{"data": [{"id": "m", "max_model_len": %d}]}' % positions)

        def _send(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            # the probe's text comes as text, a unit's prompts as tokens
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if isinstance(json.loads(body)["prompt"], list):
                requested.set()
            self._send(b'{"choices": [{"index": 0, "text": ""}]}')

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1/completions"
    argv = [*command, "--backend", "local-completions", "--url", url]
    with log.open("w") as file:
        start = time.perf_counter()
        process = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT)
        came = requested.wait(300)
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
    server.shutdown()
    if not came:
        raise SystemExit(f"no request came:\n{log.read_text()[-4000:]}")
    return seconds


def prepare(folder: Path, options: argparse.Namespace) -> Setup:
    """Write the model, RULER's samples and the task files."""
    model = folder / "hf"
    samples = folder / "ruler"
    write_model(model, options.length, hidden_size=64, layers=4)
    generate(model, [options.length], options.samples, samples, tasks=options.tasks)

    files = []
    for task in options.tasks:
        budget = read_metadata(samples, task, options.length).settings["budget"]
        metric = get_suite("long-context", SIZE).tasks[task].metric.partition(",")[0]
        file = folder / f"{task}.yaml"
        lines = samples_file(samples, task, options.length)
        write_task_file(file, f"{task}_task", lines, metric, budget)
        files.append(str(file))

    output = folder / "out"
    hand = [sys.executable, "-c", BY_HAND, str(model), str(options.length), str(output), *files]
    command = [str(Path(sys.executable).with_name("granite41")), "eval", "long-context"]
    command += ["--size", SIZE, "--model", str(model), "--output", str(output)]
    command += ["--ruler-samples", str(samples), "--samples", str(options.samples)]
    command += ["--lengths", str(options.length), "--tasks", *options.tasks]
    return Setup(output, folder / "log", hand, command)


def measure(setup: Setup, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of each side, round by round."""

    def by_hand() -> float:
        setup.output.mkdir()
        return run_command(setup.by_hand, setup.log)

    def command() -> float:
        return run_command(setup.command, setup.log)

    def start() -> float:
        return seconds_to_first_request(setup.command, options.length, setup.log)

    sides: list[tuple[str, Callable[[], float]]] = [
        (HAND, by_hand),
        (COMMAND, command),
        (START, start),
    ]
    seconds: dict[str, list[float]] = {name: [] for name, _ in sides}
    for _ in range(options.rounds):
        for name, side in sides:
            seconds[name].append(side())
            shutil.rmtree(setup.output, ignore_errors=True)
        sides.reverse()
    return seconds


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each side (3)")
    parser.add_argument("--length", type=int, default=2048, help="tokens (2048)")
    parser.add_argument("--samples", type=int, default=8, help="of each task (8)")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="of RULER (all)")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as scratch:
        seconds = measure(prepare(Path(scratch), options), options)

    hand = statistics.median(seconds[HAND])
    rows = []
    for name, taken in seconds.items():
        median = statistics.median(taken)
        figures = [f"{value:.2f}" for value in (median, min(taken), max(taken))]
        rows.append([name, *figures, f"{median / hand:.3f}"])
    report(
        ["RULER, tiny", "median s", "lowest", "highest", f"x {HAND}"],
        rows,
        f"{len(options.tasks)} tasks x {options.samples} at {options.length:,}",
        f"{options.rounds} rounds",
    )
    overhead = 100 * (statistics.median(seconds[COMMAND]) / hand - 1)
    print(f"overhead of the runner: {overhead:.1f} %")


if __name__ == "__main__":
    main()
