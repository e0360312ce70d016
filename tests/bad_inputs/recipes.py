"""Stages, sizes and overrides: ``list``, ``show``, ``check`` and ``plot``."""

from tests.bad_inputs.row import Row

ROWS = [
    Row("an option that list does not have", "list --jsn", ["No such option '--jsn'"]),
    Row("a command that does not exist", "lst", ["No such command 'lst'"]),
    Row("a stage without its size", "show phase1", ["Missing option '--size'"]),
    Row(
        "a stage that does not exist",
        "show phas1 --size 8b",
        ["unknown stage 'phas1'", "did you mean 'phase1'"],
    ),
    Row("a size that does not exist", "show phase1 --size 7b", ["unknown size '7b'", "8b"]),
    Row(
        "a size that the stage does not have",
        "show lce_512k --size 3b",
        ["lce_512k", "does not exist for size '3b'", "8b, 30b"],
    ),
    Row(
        "an override with an unknown key",
        "show phase1 --size 8b tokns=1",
        ["unknown key 'tokns'", "did you mean 'tokens'"],
    ),
    Row("an override without a value's sign", "show phase1 --size 8b seed", ["has no '='"]),
    Row(
        "an override of another type",
        "show phase1 --size 8b seed=true",
        ["seed is True", "expected an integer"],
    ),
    Row(
        "an override that is no YAML",
        "show phase1 --size 8b 'seed=[1'",
        ["'[1' cannot be read as YAML"],
    ),
    Row(
        "an override out of range",
        "show phase1 --size 8b tokens=-1",
        ["tokens is -1", "expected a positive number"],
    ),
    Row(
        "a check of a stage that does not exist",
        "check --size 8b --stage phase9",
        ["unknown stage 'phase9'"],
    ),
    Row("a check of a size that does not exist", "check --size 8", ["unknown size '8'"]),
    Row("a chart of a size that does not exist", "plot lr --size 8", ["unknown size '8'"]),
    Row(
        "a chart of a mixture of a size that does not exist",
        "plot mixture --size 8",
        ["unknown size '8'"],
    ),
    Row(
        "a chart as a kind of file that is none",
        "plot lr --output lr.docx",
        ["lr.docx", ".png or .svg"],
    ),
]
