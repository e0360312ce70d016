"""The result of one check, and how checks are printed."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from recipes.common.tables import human, print_table


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: what was checked; the same wherever the check is made.
        ok: whether it passed; what has nothing to be compared with passes.
        found: the value that was found, as words or a number; None for nothing.
        expected: the value that passes; None where any does.
        reason: half a sentence where ``found`` and ``expected`` do not speak for themselves.
    """

    name: str
    ok: bool
    found: str | float | None
    expected: str | float | None
    reason: str = ""


def print_checks(
    groups: Mapping[str, Iterable[CheckResult]], as_json: bool, **more: object
) -> bool:
    """Print the checks of each group to stdout, the failed ones to stderr too.

    Returns:
        Whether all passed.

    Args:
        groups: a name such as a stage, or an empty one -> its checks.
        as_json: print a JSON list instead of a table.
        more: keys and values that every entry of the JSON has in addition to the check's own.
    """
    # checks may be generated, and are read twice
    groups = {group: list(checks) for group, checks in groups.items()}
    if as_json:
        entries = []
        for group, check in _pairs(groups):
            entry = dict(more)
            if group:
                entry["stage"] = group
            entries.append(entry | asdict(check))
        print(json.dumps(entries, indent=2))
    else:
        rows = [_cells(group, check) for group, check in _pairs(groups)]
        _print_without_empty_columns(rows)
    return print_failed(groups)


def print_failed(groups: Mapping[str, Iterable[CheckResult]]) -> bool:
    """Print the failed checks of each group to stderr, and return whether all passed."""
    passed = True
    for group, check in _pairs(groups):
        if check.ok:
            continue
        passed = False
        where = check.name
        if group:
            where = f"{group}, {check.name}"
        sentence = (
            f"granite41: {where} FAILED: {human(check.found)}; expected {human(check.expected)}"
        )
        if check.reason:
            sentence += f"; {check.reason}"
        print(sentence, file=sys.stderr)
    return passed


def _pairs(
    groups: Mapping[str, Iterable[CheckResult]],
) -> Iterator[tuple[str, CheckResult]]:
    """Yield each check with its group."""
    for group, checks in groups.items():
        for check in checks:
            yield group, check


def _cells(group: str, check: CheckResult) -> dict[str, str]:
    """Return column -> text."""
    return {
        "stage": group,
        "check": check.name,
        "result": "ok" if check.ok else "FAILED",
        "found": human(check.found),
        "expected": human(check.expected),
        "reason": check.reason,
    }


def _print_without_empty_columns(rows: list[dict[str, str]]) -> None:
    shown: list[str] = []
    if rows:
        shown = [column for column in rows[0] if any(row[column] for row in rows)]
    cells = []
    for row in rows:
        cells.append([row[column] for column in shown])
    print_table(shown, cells)
