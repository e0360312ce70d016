"""What a command read, left out and passed over, as tables on stdout."""

from collections.abc import Mapping

from recipes.common.tables import print_table


def print_counts(
    read: Mapping[str, int], left_out: Mapping[str, int], kept: Mapping[str, int]
) -> None:
    """Print numbers of records or files by name.

    Args:
        read: what the inputs hold.
        left_out: reason -> how many of them.
        kept: what the output holds.
    """
    rows = []
    for name, count in read.items():
        rows.append([f"{name} read", f"{count:,}"])
    for reason, count in left_out.items():
        rows.append([f"left out: {reason}", f"{count:,}"])
    for name, count in kept.items():
        rows.append([name, f"{count:,}"])
    print_table(["", "count"], rows)


def print_passed_over(passed_over: Mapping[str, int]) -> None:
    """Print reason -> files of the inputs that were not read; nothing where all were."""
    if passed_over:
        rows = [[reason, f"{count:,}"] for reason, count in passed_over.items()]
        print_table(["files passed over", "count"], rows)
