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
        found: what is there, as words or a number; None where there is nothing.
        expected: what should be there; None where nothing is asked.
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
        more: keys and values that every entry of the JSON has beside the check's own.
    """
    groups = {group: list(checks) for group, checks in groups.items()}
    rows = _pairs(groups)
    if as_json:
        entries = [
            {**more, **({"stage": group} if group else {}), **asdict(check)}
            for group, check in rows
        ]
        print(json.dumps(entries, indent=2))
    else:
        cells = [
            [
                group,
                check.name,
                "ok" if check.ok else "FAILED",
                human(check.found),
                human(check.expected),
                check.reason,
            ]
            for group, check in rows
        ]
        titles = ["stage", "check", "result", "found", "expected", "reason"]
        _print_without_empty_columns(titles, cells)

    return print_failed(groups)


def print_failed(groups: Mapping[str, Iterable[CheckResult]]) -> bool:
    """Print the failed checks of each group to stderr, and return whether there was none."""
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


def _print_without_empty_columns(titles: list[str], rows: list[list[str]]) -> None:
    kept = [index for index in range(len(titles)) if any(row[index] for row in rows)]
    print_table([titles[index] for index in kept], [[row[index] for index in kept] for row in rows])
