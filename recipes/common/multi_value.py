"""Options that take several values after one flag: ``--input A B C``."""

import click
from typer.core import TyperCommand


class MultiValueCommand(TyperCommand):
    """A command with ``--input A B`` for ``--input A --input B``, for every repeatable option.

    Values end at the next option; a negative number is a value. Words after ``--`` are arguments.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = self._repeatable_flags()
        spread: list[str] = []
        flag: str | None = None
        for position, word in enumerate(args):
            if word == "--":
                return super().parse_args(ctx, spread + args[position:])
            if _is_option(word):
                flag = None
                if word in flags:
                    flag = word
            elif flag and spread[-1] != flag:
                # a further value of the option
                spread.append(flag)
            spread.append(word)
        return super().parse_args(ctx, spread)

    def _repeatable_flags(self) -> set[str]:
        flags: set[str] = set()
        for option in self.params:
            if isinstance(option, click.Option) and option.multiple:
                flags.update(option.opts)
        return flags


def _is_option(word: str) -> bool:
    """Whether a word names an option: one with a dash, but no lone dash or negative number."""
    try:
        float(word)
    except ValueError:
        return word.startswith("-") and word != "-"
    return False
