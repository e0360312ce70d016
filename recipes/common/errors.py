"""The one exception that the command line turns into a sentence and exit status 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user, or a full disk.

    Its text is one sentence: what is wrong, where, what was expected, and the remedy. Characters
    that do not print, as in a name from a file, are escaped.
    """

    def __init__(self, text: str) -> None:
        """Keep the sentence in one line."""
        super().__init__("".join(map(_printable, text)))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


class LockedError(UserError):
    """Another process holds a lock: the same command may succeed later."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to ``name``, or ``""``."""
    for match in difflib.get_close_matches(name, list(known), n=1, cutoff=0.4):
        return f" (did you mean {match!r}?)"
    return ""
