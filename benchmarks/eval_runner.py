"""``granite41 eval long-context`` against the same task files given to lm-eval by hand, and the start of a cached one.

    python benchmarks/eval_runner.py [--rounds 3] [--length 2048] [--samples 8] [--tasks vt cwe ...]

Method: a model of random weights (4 layers, hidden size 64, 2,048 entries) and RULER's samples, generated once before.
Whole processes, from start to end, which write the same kinds of files:

- by hand: a fresh Python that loads the model as lm-eval's ``hf`` and calls ``simple_evaluate`` once, on the task files
  of all units, with only these files indexed, then saves results and samples;
- the command, in a fresh process and an empty folder, which checks the samples, scores unit after unit and gathers.

They take turns, ``--rounds`` times, and who goes first alternates; medians. lm-eval's own command line adds 18 s to the
first on two cores, as it indexes all of its tasks.

Start: from the start of ``granite41 eval`` to the first completion that it asks a server on this machine for, with all
samples there (``--backend local-completions``, so that no model is loaded).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from cli import report

sys.path.insert(0, str(Path(__file__).parents[1]))
from evaluation.ruler.generation import generate, read_metadata, samples_file
from evaluation.ruler.lm_eval_task import write_task_file
from evaluation.ruler.settings import TASKS
from evaluation.suites import get_suite
from tests.helpers.eval_models import write_model

HAND, COMMAND, START = (
    "lm-eval by hand",
    "granite41 eval",
    "granite41 eval, until the first request",
)
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


def parse_time_limit(command: list[str], log: Path) -> float:
    """Run ``command`` and return its seconds; it must succeed."""
    with log.open("w") as file:
        start = time.perf_counter()
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        taken = time.perf_counter() - start
    if code:
        raise SystemExit(f"{command[:3]} ended with {code}:\n{log.read_text()[-4000:]}")
    return taken


def seconds_until_asked(command: list[str], positions: int, log: Path) -> float:
    """Return the seconds from the start of ``command`` to the first completion that it asks for."""
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = b'{"data": [{"id": "m", "max_model_len": %d}]}' % positions
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            asked.set()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1/completions"
    with log.open("w") as file:
        start = time.perf_counter()
        words = [*command, "--backend", "local-completions", "--url", url]
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        found = asked.wait(300)
        taken = time.perf_counter() - start
        process.kill()
        process.wait()
    server.shutdown()
    if not found:
        raise SystemExit(f"no request came:\n{log.read_text()[-4000:]}")
    return taken


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
    seconds: dict[str, list[float]] = {HAND: [], COMMAND: [], START: []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, ruler = folder / "hf", folder / "ruler"
        write_model(model, options.length, hidden_size=64, layers=4)
        generate(
            model,
            [options.length],
            options.samples,
            ruler,
            tasks=options.tasks,
            say=lambda line: None,
        )
        files = []
        for task in options.tasks:
            budget = read_metadata(ruler, task, options.length).settings["budget"]
            metric = get_suite("long-context", "tiny").tasks[task].metric.partition(",")[0]
            files.append(folder / f"{task}.yaml")
            write_task_file(
                files[-1], f"{task}_task", samples_file(ruler, task, options.length), metric, budget
            )
        script = str(Path(sys.executable).with_name("granite41"))
        words = [
            script,
            "eval",
            "long-context",
            "--model",
            str(model),
            "--size",
            "tiny",
            "--ruler-samples",
            str(ruler),
        ]
        words += [
            "--samples",
            str(options.samples),
            "--lengths",
            str(options.length),
            "--output",
            str(folder / "out"),
        ]
        words += ["--tasks", *options.tasks]

        def by_hand() -> None:
            (folder / "out").mkdir()
            arguments = [str(model), str(options.length), str(folder / "out"), *map(str, files)]
            seconds[HAND].append(
                parse_time_limit([sys.executable, "-c", BY_HAND, *arguments], folder / "log")
            )

        def command() -> None:
            seconds[COMMAND].append(parse_time_limit(words, folder / "log"))

        def start() -> None:
            seconds[START].append(seconds_until_asked(words, options.length, folder / "log"))

        sides = [by_hand, command, start]
        for _ in range(options.rounds):
            for side in sides:
                side()
                shutil.rmtree(folder / "out", ignore_errors=True)
            sides.reverse()
    hand = statistics.median(seconds[HAND])
    rows = [
        [
            name,
            *(f"{value:.2f}" for value in (median, min(taken), max(taken))),
            f"{median / hand:.3f}",
        ]
        for name, taken in seconds.items()
        for median in [statistics.median(taken)]
    ]
    columns = ["RULER, tiny", "median s", "lowest", "highest", f"x {HAND}"]
    report(
        columns,
        rows,
        f"{len(files)} tasks x {options.samples} at {options.length:,}",
        f"{options.rounds} rounds",
    )
    print(f"overhead of the runner: {100 * (statistics.median(seconds[COMMAND]) / hand - 1):.1f} %")


if __name__ == "__main__":
    main()
