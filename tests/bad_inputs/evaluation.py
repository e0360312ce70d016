"""Evaluations, RULER and gates: ``eval ...``."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evaluation.results import read_evaluation, write_evaluation
from recipes.common.json_files import write_json
from tests.bad_inputs import inputs
from tests.bad_inputs.row import Input, Row
from tests.helpers.report_pages import unit, write_scores

FOLDER = "run/phase1/eval/base"
EVALUATION = f"{FOLDER}/evaluation.json"
GATE = f"eval gate --folders {FOLDER} --reference none"
BY_REFERENCE = f"eval gate --folders {FOLDER} --reference reference.json"
BY_BASELINE = f"eval gate --folders {FOLDER} --reference none --baseline run/phase2/eval/base"
RUN = "run phase1 --size tiny --run-dir run --dryrun"
SMOKE = "run/phase1/eval/smoke"


def smoke(folder: Path) -> None:
    """Write a finished phase1 with an evaluation that has its gate."""
    inputs.run(folder)
    write_scores(folder / "run", "phase1", "smoke", [unit("smoke_cloze", 60.0)])


def reference(folder: Path) -> None:
    """Write an evaluation, and the same as a calibrated reference."""
    inputs.evaluation(folder)
    values = asdict(read_evaluation(folder / FOLDER))
    write_json(folder / "reference.json", {"kind": "calibrated", **values})


def other_reference(suite: str = "base", **changes: Any) -> Input:
    """Write an evaluation, and one with other values as reference and of phase2."""

    def write(folder: Path) -> None:
        inputs.evaluation(folder)
        units = [replace(unit("mmlu", 60.0), **changes)]
        write_scores(folder / "run", "phase2", suite, units)
        found = read_evaluation(folder / "run/phase2/eval" / suite)
        write_evaluation(folder / "run/phase2/eval/base", found)
        write_json(folder / "reference.json", {"kind": "calibrated", **asdict(found)})

    return write


def set_value(file: str, keys: Sequence[str | int], value: Any) -> Input:
    """Set a value in a JSON file that an input before this one wrote."""
    return inputs.changed_json(file, lambda content: inputs.put(content, keys, value))


# what is wrong, keys, value, what the sentence says
DAMAGES = [
    ("a number as a unit", ("units", 0), 3, "units"),
    ("a number for the expected units", ("expected",), 7, "key 'expected' holds 7 (int)"),
    ("a word as a score", ("units", 0, "score"), "high", "key 'units.score' holds 'high'"),
    ("no suite", ("suite",), ..., "has no key 'suite'"),
]
SETTINGS = [
    ("another number of examples", {"settings": {"num_fewshot": 0}}, "num_fewshot: 0 there and 5"),
    ("another variant", {"settings": {"settings_variant": "compact"}}, "settings_variant: 'comp"),
    ("fewer samples", {"samples": 99}, "samples: 99 there and 100 here"),
    ("other texts", {"corpus": "fallback"}, "corpus: 'fallback' there and None here"),
    ("no unit in common", {"length": 4096}, "has no unit in common with the evaluation"),
]

ROWS = [
    *(
        Row(
            f"an evaluation with {name}",
            GATE,
            input=[inputs.evaluation, set_value(EVALUATION, keys, value)],
            says=[f"{EVALUATION}: ", says],
        )
        for name, keys, value, says in DAMAGES
    ),
    *(
        Row(
            f"a run whose {file} {name}",
            RUN,
            input=[smoke, inputs.text(f"{SMOKE}/{file}", content)],
            says=[f"{SMOKE}/{file}: {says}"],
        )
        for file, name, content, says in (
            ("evaluation.json", "is cut off", "{", "is not valid JSON"),
            ("gate.json", "is cut off", '{"passed": tr', "is not valid JSON"),
            ("gate.json", "is in Latin 1", b'{"passed": "\xff"}', "is not UTF-8 text (byte 12)"),
            (
                "gate.json",
                "has a word",
                '{"passed": "yes"}',
                "key 'passed' is 'yes', expected true",
            ),
            ("gate.json", "has no keys", "{}", "key 'passed' is None, expected true or false"),
        )
    ),
    *(
        Row(
            f"a reference with {name}",
            BY_REFERENCE,
            input=[reference, set_value("reference.json", keys, value)],
            says=["reference.json: ", says],
        )
        for name, keys, value, says in (
            *DAMAGES,
            ("another kind", ("kind",), "other", "is no calibrated reference, kind is 'other'"),
            ("another size", ("size",), "3b", "is of suite base at size 3b, expected base at 8b"),
        )
    ),
    *(
        Row(
            f"{what} with {name}",
            command,
            input=[other_reference(**changes)],
            says=[says],
        )
        for what, command in (("a reference", BY_REFERENCE), ("a baseline", BY_BASELINE))
        for name, changes, says in SETTINGS
    ),
    Row(
        "a reference that is cut off",
        BY_REFERENCE,
        input=[reference, inputs.damaged("reference.json", inputs.cut)],
        says=["reference.json: is not valid JSON"],
    ),
    Row(
        "a reference that is not there",
        BY_REFERENCE,
        input=[inputs.evaluation],
        says=["reference.json: no such file; write one with `granite41 eval calibrate`"],
    ),
    Row(
        "a reference of another suite",
        BY_REFERENCE,
        input=[other_reference("smoke")],
        says=["reference.json: is of suite smoke at size 8b, expected base at 8b"],
    ),
    Row(
        "published numbers of a size that has none",
        f"eval gate --folders {FOLDER}",
        input=[inputs.evaluation, set_value(EVALUATION, ("size",), "tiny")],
        says=["no numbers are published for suite base at size tiny"],
    ),
    Row(
        "an evaluation in Latin 1",
        GATE,
        input=[inputs.evaluation, inputs.damaged(EVALUATION, inputs.latin_1)],
        says=[f"{EVALUATION}: is not UTF-8 text (byte 0)"],
    ),
    Row(
        "an evaluation that is cut off",
        GATE,
        input=[inputs.evaluation, inputs.damaged(EVALUATION, inputs.cut)],
        says=[f"{EVALUATION}: is not valid JSON"],
    ),
    *(
        Row(
            f"eval {suite} of a model that is not there",
            f"eval {suite} --model nowhere --size 8b --output out",
            ["nowhere: neither a stage nor a folder"],
        )
        for suite in ("base", "instruct", "long-context", "smoke", "chat")
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
