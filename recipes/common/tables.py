"""Values and tables on stdout, for a reader."""

import sys
from typing import Any


def human(value: Any) -> str:
    """Return ``value`` for a reader: ``10T``, ``4,096``, ``0.000875``, ``true``, ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(human(item) for item in value)
    if isinstance(value, int):
        return _human_integer(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _human_integer(value: int) -> str:
    for unit, suffix in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if value >= unit:
            # three decimals only where they lose nothing
            if value * 1000 % unit == 0:
                return f"{value / unit:.6g}{suffix}"
            break
    return f"{value:,}"


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table to stdout, as wide as it needs to be where stdout is not a terminal."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # rich would cut a table in a file or a pipe at 80 columns
    width = None
    if not sys.stdout.isatty():
        width = 10_000
    console = Console(width=width, markup=False, highlight=False)
    console.print(table)
