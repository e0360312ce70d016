"""Evaluations, RULER and gates: ``eval ...``."""

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

ROWS = [
    *(
        Row(
            f"eval {suite} of a model that is not there",
            f"eval {suite} --model nowhere --size 8b --output out",
            ["nowhere: neither a stage nor a folder"],
        )
        for suite in ("base", "instruct", "long-context", "smoke")
    ),
    Row("a suite that does not exist", "eval list nothing", ["unknown suite 'nothing'"]),
    Row(
        "calibration by a model that is not there",
        "eval calibrate base --model nowhere --size 8b --output out",
        ["nowhere: neither a stage nor a folder"],
    ),
    Row(
        "RULER's samples without a tokenizer",
        "eval generate --tokenizer nowhere --lengths 4096 --samples 1 --output out",
        ["nowhere/tokenizer.json: no such file"],
    ),
    Row(
        "corpora into a file",
        "eval corpora --output out",
        input=[inputs.text("out", "a file")],
        says=["out: exists already"],
    ),
    Row(
        "a gate of nothing",
        "eval gate --folders nowhere",
        ["nowhere/evaluation.json: no such file"],
    ),
    Row(
        "an evaluations' report of nothing",
        "eval report --run-dir nowhere",
        ["nowhere: no such folder"],
    ),
    Row("a comparison of nothing", "eval compare a b --output c.html", ["a: holds no evaluations"]),
]
