"""The metrics file ``metrics/steps.jsonl`` of a stage: a JSON line for each step and validation."""

import json
from pathlib import Path
from typing import Any, TextIO

from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.common.json_files import read_json_lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a last line that was cut short by a kill is left out.

    Raises:
        UserError: the file cannot be read, or a line is not that of a step or a validation.
    """
    lines = list(read_json_lines(path))
    for number, line in enumerate(lines, 1):
        step = line.get("step")
        if type(step) is not int:
            raise UserError(
                f"{path}: line {number} has step {step!r}, expected a whole number; remove the "
                f"line, or the file"
            )
    return lines


def open_metrics(path: Path, step: int, *, is_validated: bool = False) -> TextIO:
    """Open a metrics file to append to, without the lines of what comes after ``step``.

    Args:
        path: of the file.
        step: the last one that is done.
        is_validated: whether the validation after it is done too.

    Raises:
        UserError: as :func:`read_metrics`.
    """
    lines = read_metrics(path) if path.exists() else []
    done = [json.dumps(line) + "\n" for line in lines if _is_done(line, step, is_validated)]
    write_text(path, "".join(done))
    return path.open("a", encoding="utf-8")


def _is_done(line: dict[str, Any], step: int, is_validated: bool) -> bool:
    """Whether a stage that continues after ``step`` will not do again what a line describes."""
    is_kept = is_validated or "val_loss" not in line
    return line["step"] < step or (line["step"] == step and is_kept)
