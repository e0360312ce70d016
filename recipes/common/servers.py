"""Clients of servers with OpenAI's API: addresses, the key, waits, and the words of errors."""

import json
import math
import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from recipes.common.errors import UserError

KEY = "OPENAI_API_KEY"
RATE_LIMITED = 429
# the server had no time for the request, which is no answer to it
TIMED_OUT = 408
_WORDS = 300


class NotNow(Exception):
    """A request without an answer, to be sent again: the reason, and when the server names it."""

    def __init__(self, reason: str, seconds: float | None = None, is_limit: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds
        self.is_limit = is_limit


def check_url(option: str, url: str, ending: str) -> None:
    """Raise UserError unless ``url`` is an address without a password that ends with ``ending``.

    Args:
        option: by which the user gives the address.
        url: the address.
        ending: as ``/chat/completions``.
    """
    try:
        address = urlsplit(url)
    except ValueError as error:
        raise UserError(f"{option} {url}: is no address ({error}); correct it") from error
    if address.scheme not in ("http", "https") or not url.endswith(ending):
        what = ending.strip("/").replace("/", " ")
        raise UserError(
            f"{option} {url}: expected the address of {what}, as http://HOST:PORT/v1{ending}"
        )
    if address.username is not None:
        raise UserError(
            f"{option} {address.scheme}://...@{address.hostname}: results and logs name the "
            f"address; leave the password out of it, and put a key into the environment variable "
            f"{KEY}"
        )


def api_key() -> str:
    """Return the key of the environment, which is never written anywhere; "" without one.

    Raises:
        UserError: a request cannot carry it.
    """
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{KEY}: holds characters that no key has; set it again")
    return key


def seconds_to_wait(header: str | None, now: datetime) -> float | None:
    """Return the seconds of a ``Retry-After`` header, a number or a date; None without one."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except (ValueError, TypeError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def error_words(text: str) -> str:
    """Return what the body of an error says, shortened."""
    words = text
    try:
        content = json.loads(text)
        for name in ("error", "message", "detail"):
            if isinstance(content, dict):
                content = content.get(name, content)
        words = content if isinstance(content, str) else json.dumps(content)
    except (ValueError, RecursionError):
        pass
    return shorten(words)


def shorten(words: str) -> str:
    """Return the beginning of a server's words: printable, on one line and without the key."""
    key = api_key()
    if key:
        words = words.replace(key, f"${KEY}")
    line = " ".join(words[: 4 * _WORDS].split())
    printable = [character if character.isprintable() else "?" for character in line[:_WORDS]]
    return "".join(printable)
