"""Stages, sizes and charts: ``list``, ``show``, ``check`` and ``plot``."""

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

ROWS = [
    Row("an option that list does not have", "list --jsn", ["No such option '--jsn'"]),
    Row("a command that does not exist", "lst", ["No such command 'lst'"]),
    Row("a stage without its size", "show phase1", ["Missing option '--size'"]),
    Row("a size without its stage", "show --size 8b", ["Missing argument 'STAGE'"]),
    Row(
        "a stage that does not exist",
        "show phas1 --size 8b",
        ["unknown stage 'phas1' (did you mean 'phase1'?); known are phase1, ", "rl_math"],
    ),
    Row(
        "a size that does not exist",
        "show phase1 --size 7b",
        ["unknown size '7b'", "; known are 3b, 8b, 30b, tiny"],
    ),
    Row(
        "a size that the stage does not have",
        "show lce_512k --size 3b",
        ["stage lce_512k does not exist for size '3b'; it has 8b, 30b, tiny"],
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
        ["lr.docx: ends in '.docx', expected a picture's .png or .svg"],
    ),
    Row(
        "a chart below a file",
        "plot lr --output notes/lr.png",
        input=[inputs.text("notes", "a file")],
        says=["notes: File exists; check this path"],
        slow=True,
    ),
]
