"""Answers that are paid for: an SQLite file, so that a killed run asks for none of them twice."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.conversations.judge.rubric import Sampling
from recipes.common.errors import LockedError, UserError

FILE = "judge.sqlite"
_FORM = 1  # of the table
_CREATE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"


def cache_key(model: str, prompt_version: str, sample: str, sampling: Sampling) -> str:
    """Return the key of an answer.

    Args:
        model: the judge, as its server calls it.
        prompt_version: of :attr:`Prompt.version`.
        sample: of :attr:`Sample.digest`.
        sampling: of the judge's answer.
    """
    content = [model, prompt_version, sample, vars(sampling)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Cache:
    """Key -> answer, any JSON object. Each is kept as soon as :meth:`put` returns."""

    connection: sqlite3.Connection
    path: Path

    def get(self, key: str) -> dict[str, Any] | None:
        """Return an answer, or None."""
        with _errors(self.path):
            statement = "SELECT answer FROM answers WHERE key = ?"
            row = self.connection.execute(statement, (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer.

        Raises:
            UserError: there is no space.
        """
        with _errors(self.path):
            statement = "INSERT OR REPLACE INTO answers VALUES (?, ?)"
            self.connection.execute(statement, (key, json.dumps(answer)))


@contextmanager
def open_cache(folder: Path, name: str = FILE) -> Iterator[Cache]:
    """Open the cache of an output folder, for this process alone.

    Args:
        folder: created, and removed again if no answer is kept.
        name: of the file in it.

    Raises:
        UserError: its file is damaged or of another version, or there is no space.
        LockedError: another process has it open.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with _errors(path):
        # each statement is a transaction
        connection = sqlite3.connect(path, timeout=1, isolation_level=None)
    try:
        with _errors(path):
            # without it, WAL needs memory that is shared, which network file systems do not have
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=WAL")
            # what is written survives the process; a power cut may take the last answers
            connection.execute("PRAGMA synchronous=NORMAL")
            (form,) = connection.execute("PRAGMA user_version").fetchone()
            if form not in (0, _FORM):
                raise UserError(f"{path}: is of another version; name another --output")
            connection.execute(_CREATE)
            connection.execute(f"PRAGMA user_version={_FORM}")
        yield Cache(connection, path)
    finally:
        is_empty = _is_empty(connection)
        connection.close()
        # nothing is left of a run that ended before its first answer
        if is_empty:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether this process has the cache, and it holds no answer."""
    try:
        return connection.execute("SELECT 1 FROM answers LIMIT 1").fetchone() is None
    except sqlite3.Error:
        return False


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_BUSY"):
            raise LockedError(
                f"{path}: another process works in this folder; wait until it has ended, or name "
                f"another --output"
            ) from error
        if name.startswith("SQLITE_FULL"):
            raise UserError(
                f"{path}: no space left on the device, the answers before are kept; free some, "
                f"run again"
            ) from error
        raise UserError(
            f"{path}: cannot be used ({error}); restore or remove it, or name another --output"
        ) from error
