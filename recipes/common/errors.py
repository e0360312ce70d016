"""The one exception that the command line turns into a sentence and exit status 2."""

import difflib
from collections.abc import Iterable

# names the file that a user's mistake leaves for what started the command, where launchers change its exit status
USER_ERROR_MARKER = "GRANITE41_USER_ERROR_MARKER"


class UserError(Exception):
    """A mistake of the user or of the machine (a full disk): one sentence saying what, where, expected and remedy."""


class LockedError(UserError):
    """What another process prevents as long as it runs: the same command may succeed later."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" (did you mean {match[0]!r}?)" if match else ""
