"""The one exception that the command line turns into a sentence and exit status 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user or of the machine (a full disk): one sentence saying what, where, expected and remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" (did you mean {match[0]!r}?)" if match else ""
