"""``granite41 run phase1 --size tiny`` against the same stage run by hand through NeMo's
``llm.pretrain``.

    python benchmarks/pipeline.py [--rounds 3] [--tokens 1250000] [--data FOLDER]

Method: whole processes, from start to end, on data prepared once before. By hand: a fresh Python
imports NeMo, takes the recipe of :mod:`recipes.training.pretraining` with the arguments that
``granite41 train`` gives it, and calls it; it has checkpoints, validation and metrics, as the
recipe has them, and the end of the process. The other is the command, in a fresh process too; it
also checks, records, exports, reports and generates, and evaluates nothing (``--no-eval``). ``until
trained`` ends when the stage's ``manifest.json`` says that it is finished, looked at every 20 ms.
Each writes to a folder of its own. They take turns, ``--rounds`` times, and who goes first
alternates. Medians; the overhead is what ``until trained`` takes beyond the run by hand.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cli import report

from data_prep import tiny
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.data_folder import TOKENIZER, blend, read_data_manifest

HAND, TRAINED, WHOLE = (
    "llm.pretrain by hand",
    "granite41 run, until trained",
    "granite41 run, whole",
)
BY_HAND = """
import json, sys
import fiddle
from recipes.training.pretraining import pretraining_recipe
from nemo.utils import logging
logging.set_verbosity(logging.ERROR)
arguments = json.loads(sys.argv[1])
shards = arguments.pop("shards")
recipe = pretraining_recipe("phase1", "tiny", **arguments)
recipe.data.shards = shards
fiddle.build(recipe)()
"""


def arguments_of(data: Path, overrides: list[str], folder: Path) -> dict[str, Any]:
    """Return what ``granite41 train`` gives to the recipe of phase 1, and ``shards``, which it sets
    in it.
    """
    prepared = read_data_manifest(data)
    mixture = resolve_pretraining("phase1", "tiny", overrides).mixture
    blended = blend(prepared, {name: percent.value for name, percent in mixture.items()})
    return {
        "overrides": overrides,
        "folder": str(folder),
        "data": [part for weight, prefix in blended for part in (weight, str(data / prefix))],
        "tokenizer": str(data / TOKENIZER),
        "index_cache": str(folder / "index"),
        "devices": 1,
        "shards": {
            str(data / prefix): {"component": name}
            for prefix, (name, _) in prepared.shards().items()
        },
    }


def parse_time_limit(
    command: list[str], log: Path, manifest: Path | None = None
) -> tuple[float, float]:
    """Run ``command``; return the seconds until ``manifest`` says that the stage is finished, and
    until its end.
    """
    trained = None
    with log.open("w") as file:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        while manifest and trained is None and process.poll() is None:
            time.sleep(0.02)
            # the file appears whole
            if manifest.exists() and json.loads(manifest.read_text())["status"] == "finished":
                trained = time.perf_counter() - start
        process.wait()
        whole = time.perf_counter() - start
    if process.returncode or (manifest and trained is None):
        raise SystemExit(
            f"{command[:3]} ended with {process.returncode}:\n{log.read_text()[-4000:]}"
        )
    return trained or whole, whole


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each side (3)")
    parser.add_argument("--tokens", type=int, help="of the stage (tiny's own)")
    parser.add_argument(
        "--data", type=Path, help="a folder of prepared data (prepared in a temporary folder)"
    )
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    overrides = [f"tokens={options.tokens}"] if options.tokens else []
    recipe = resolve_pretraining("phase1", "tiny", overrides)
    seconds: dict[str, list[float]] = {HAND: [], TRAINED: [], WHOLE: []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = options.data or folder / "data"
        if options.data is None:
            tiny.prepare(data)

        def by_hand() -> None:
            arguments = json.dumps(arguments_of(data, overrides, folder / "hand" / "phase1"))
            _, whole = parse_time_limit([sys.executable, "-c", BY_HAND, arguments], folder / "log")
            seconds[HAND].append(whole)

        def command() -> None:
            script = str(Path(sys.executable).with_name("granite41"))
            words = [
                "run",
                "phase1",
                "--size",
                "tiny",
                "--on",
                "local",
                "--run-dir",
                str(folder / "run"),
                "--no-eval",
            ]
            manifest = folder / "run" / "phase1" / "manifest.json"
            trained, whole = parse_time_limit(
                [script, *words, "--data", str(data), *overrides], folder / "log", manifest
            )
            seconds[TRAINED].append(trained)
            seconds[WHOLE].append(whole)

        sides = [by_hand, command]
        for _ in range(options.rounds):
            for side in sides:
                side()
                for name in ("hand", "run"):
                    shutil.rmtree(folder / name, ignore_errors=True)
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
    columns = ["phase 1, tiny", "median s", "lowest", "highest", f"x {HAND}"]
    report(columns, rows, f"{recipe.steps.value} steps", f"{options.rounds} rounds")
    print(
        f"overhead until the stage is trained: "
        f"{100 * (statistics.median(seconds[TRAINED]) / hand - 1):.1f} %"
    )


if __name__ == "__main__":
    main()
