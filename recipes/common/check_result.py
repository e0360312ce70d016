"""The result of one check, and how checks are printed."""

import json
import sys
from collections.abc import Iterable, Mapping
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
    groups = {group: list(checks) for group, checks in groups.items()}
    rows = _pairs(groups)
    if as_json:
        entries = []
        for group, check in rows:
            stage = {"stage": group} if group else {}
            entries.append({**more, **stage, **asdict(check)})
        print(json.dumps(entries, indent=2))
    else:
        _print_without_empty_columns([_cells(group, check) for group, check in rows])
    return print_failed(groups)


def print_failed(groups: Mapping[str, Iterable[CheckResult]]) -> bool:
    """Print the failed checks of each group to stderr, and return whether all passed."""
    failed = [(group, check) for group, check in _pairs(groups) if not check.ok]
    for group, check in failed:
        where = f"{group}, {check.name}" if group else check.name
        reason = f"; {check.reason}" if check.reason else ""
        print(
            f"granite41: {where} FAILED: {human(check.found)}; "
            f"expected {human(check.expected)}{reason}",
            file=sys.stderr,
        )
    return not failed


def _pairs(groups: Mapping[str, Iterable[CheckResult]]) -> list[tuple[str, CheckResult]]:
    pairs = []
    for group, checks in groups.items():
        pairs += [(group, check) for check in checks]
    return pairs


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
    columns = list(rows[0]) if rows else []
    shown = [column for column in columns if any(row[column] for row in rows)]
    print_table(shown, [[row[column] for column in shown] for row in rows])
