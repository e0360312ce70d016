"""Text to SQL: the query gives the same rows as the gold query, in SQLite.

A query runs in a database file that is opened immutable and read-only. An authorizer allows reading
tables and calling functions and nothing else. The steps of SQLite's machine, the rows, the bytes
and the length of a value are limited; steps end an endless query the same way on any machine.
"""

import hashlib
import logging
import math
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from recipes.alignment.rewards.reward import (
    RIGHT,
    BadGold,
    NoAnswer,
    Reward,
    SeveralAnswers,
    timed_out,
    wrong,
)

# of SQLite's virtual machine, about a second
_STEPS = 20_000_000
_STEPS_A_CALL = 10_000
_ROWS = 10_000
_BYTES = 16 * 2**20
_VALUE_BYTES = 1_000_000
# nested as deeply as sqlglot reads without an end of the stack
_QUERY_CHARACTERS = 10_000
# digits that sums in another order share
_DIGITS = 9
_FENCE = "```"
_LANGUAGES = ("", "sql", "sqlite")
_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
# and what a script that fills tables does besides
_WRITING = {
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_REINDEX,
}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with.

    Attributes:
        script: SQL that creates the tables and fills them.
        query: that gives the right rows; their order counts if it has an ORDER BY of its own.
    """

    script: str
    query: str


class _TooMuch(Exception):
    """A query goes beyond a limit; the argument says which."""


def example(gold: Gold) -> str:
    """Return an answer that is right.

    Raises:
        BadGold: the script fails, or the query does, or has no row or only nulls.
    """
    try:
        rows, tables = _gold_rows(gold)
    except (sqlite3.Error, _TooMuch, NoAnswer, SeveralAnswers) as error:
        raise BadGold(f"its script or query fails ({error})") from error
    if not any(value is not None for row in rows for value in row):
        raise BadGold("its query gives no row, or nulls alone, as do many that are wrong")
    if not tables:
        raise BadGold("its query reads no table")
    return gold.query


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the reward of an answer."""
    query = _query(answer)
    _parse(query)
    expected, _ = _gold_rows(gold)
    try:
        found, tables = _run(query, gold.script)
    except _TooMuch as error:
        return timed_out(str(error))
    except sqlite3.Error as error:
        return wrong(f"SQLite refuses it ({error})")
    if not tables:
        return wrong("it reads no table")
    if Counter(found) != Counter(expected):
        return wrong(f"it gives other rows ({len(found)})")
    if _has_order(gold.query) and found != expected:
        return wrong("it gives the rows in another order")
    return RIGHT


# --- Reading a query


def _query(answer: str) -> str:
    """Return the query of an answer: in its only fence, or all of it."""
    pieces = answer.split(_FENCE)
    if len(pieces) == 1:
        return answer
    if len(pieces) == 2:
        raise NoAnswer("a fence has no end")
    if len(pieces) > 3:
        raise SeveralAnswers("it has several fences")
    language, _, query = pieces[1].partition("\n")
    return query if language.strip().lower() in _LANGUAGES else pieces[1]


# the samples of a prompt often ask the same
@lru_cache(maxsize=256)
def _parse(query: str) -> Any:
    """Return the only statement of a query.

    Raises:
        NoAnswer: it has none, or is no SELECT.
        SeveralAnswers: it has more.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    if len(query) > _QUERY_CHARACTERS:
        raise NoAnswer(f"it has {len(query):,} characters, of {_QUERY_CHARACTERS:,} that are read")
    # it warns of what it reads as a command
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    try:
        statements = sqlglot.parse(query, read="sqlite")
    except (SqlglotError, RecursionError) as error:
        raise NoAnswer("it is no SQL of SQLite") from error
    # of an empty one sqlglot makes None
    statements = [statement for statement in statements if statement]
    if len(statements) > 1:
        raise SeveralAnswers(f"it has {len(statements)} statements")
    if not statements or not isinstance(statements[0], sqlglot.exp.Query):
        raise NoAnswer("it is no SELECT")
    return statements[0]


@lru_cache(maxsize=256)
def _has_order(query: str) -> bool:
    return _parse(query).args.get("order") is not None


# --- Running it


@lru_cache(maxsize=64)
def _gold_rows(gold: Gold) -> tuple[tuple[Row, ...], frozenset[str]]:
    _parse(gold.query)
    return _run(gold.query, gold.script)


def _run(query: str, script: str) -> tuple[tuple[Row, ...], frozenset[str]]:
    """Return the rows of a query, and the tables that it reads."""
    tables: set[str] = set()
    address = f"{_database(script).as_uri()}?mode=ro&immutable=1"
    with (
        closing(sqlite3.connect(address, uri=True)) as connection,
        _limits(connection, _READING, tables),
    ):
        rows = tuple(_fetch(connection.execute(query)))
    return rows, frozenset(tables)


def _fetch(cursor: sqlite3.Cursor) -> Iterator[Row]:
    size = 0
    for number, row in enumerate(cursor):
        size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
        if number >= _ROWS or size > _BYTES:
            raise _TooMuch(f"it gives more than {_ROWS:,} rows or {_BYTES:,} bytes")
        yield tuple(_rounded(value) for value in row)


def _rounded(value: Any) -> Any:
    """Return a value that another of the same meaning equals: 2.0 is 2, and .1 + .2 is .3."""
    if isinstance(value, float) and math.isfinite(value) and value:
        digits = _DIGITS - 1 - math.floor(math.log10(abs(value)))
        return round(value, digits)
    return value


@contextmanager
def _limits(connection: sqlite3.Connection, actions: set[int], tables: set[str]) -> Iterator[None]:
    """Limit what a connection may do, and how much; add the tables that are read to ``tables``."""
    steps = 0

    def count_steps() -> int:
        nonlocal steps
        steps += _STEPS_A_CALL
        return int(steps > _STEPS)

    def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action not in actions:
            return sqlite3.SQLITE_DENY
        # of a function the second argument is the name
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ and first and not first.startswith("sqlite_"):
            tables.add(first)
        return sqlite3.SQLITE_OK

    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_authorizer(authorize)
    connection.set_progress_handler(count_steps, _STEPS_A_CALL)
    try:
        yield
    except sqlite3.OperationalError as error:
        if steps > _STEPS:
            raise _TooMuch(f"it takes more than {_STEPS:,} steps") from error
        raise


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="granite41-sql-")


@lru_cache(maxsize=64)
def _database(script: str) -> Path:
    """Return the file of a script's database.

    Raises:
        sqlite3.Error: the script fails.
    """
    path = Path(_folder().name) / f"{hashlib.sha256(script.encode()).hexdigest()}.sqlite"
    # of a script that failed, or that was forgotten since
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        # faster, as nobody needs a database after a crash
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA journal_mode=MEMORY")
        with _limits(connection, _READING | _WRITING, set()):
            connection.executescript(script)
        connection.commit()
    return path
