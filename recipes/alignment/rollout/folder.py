"""The folder by which a trainer and its rollout servers find each other; all nodes see it.

key              what every request carries; only its owner reads it
servers/N.json   where server N answers since its last start
servers/N.lost   the start of server N that the trainer has given up
servers/N.log    what it prints
weights/VERSION  the policy's weights, a Hugging Face folder
"""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.common.json_files import parse_record, read_json_or_none, write_record

_KEY_BYTES = 32


@dataclass(frozen=True)
class ServerRecord:
    """A server that answers.

    Attributes:
        url: its address, ``http://HOST:PORT``.
        start: of this start of its process; no other has the same.
    """

    url: str
    start: str


@dataclass(frozen=True)
class RolloutFolder:
    """The folder; see the module."""

    path: Path

    def key(self) -> str:
        """Return the key, which whoever comes first makes up.

        Raises:
            UserError: others may read it, or it is none.
        """
        file = self.path / "key"
        if not file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            temporary = self.path / f".key.{secrets.token_hex(8)}"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_urlsafe(_KEY_BYTES))
            try:
                # one process's, and never half of it
                os.link(temporary, file)
            except FileExistsError:
                pass
            finally:
                temporary.unlink()

        status = file.stat()
        if status.st_mode & 0o077 or status.st_uid != os.getuid():
            raise UserError(
                f"{file}: others may read it, expected mode 600 and yourself as its owner; remove "
                f"it, and start servers and trainer again"
            )
        key = file.read_text(encoding="utf-8", errors="replace").strip()
        if len(key) < _KEY_BYTES or not (key.isascii() and key.isprintable()):
            raise UserError(f"{file}: holds no key; remove it, and start servers and trainer again")
        return key

    def log(self, number: int) -> Path:
        """Return the file with what a server prints."""
        return self._server_file(number, "log")

    def weights(self, version: int) -> Path:
        """Return the folder of a version of the weights."""
        return self.path / "weights" / f"{version:08}"

    def remove_weights(self, kept: int | None) -> None:
        """Remove the weights of all versions but one, and what is left of interrupted writes."""
        folder = self.path / "weights"
        for found in folder.iterdir() if folder.is_dir() else ():
            if kept is None or found != self.weights(kept):
                shutil.rmtree(found)

    def record(self, number: int) -> ServerRecord | None:
        """Return where a server answers; None while it does not.

        Raises:
            UserError: its record is damaged.
        """
        file = self._server_file(number, "json")
        value = read_json_or_none(file)
        if value is None:
            return None
        return parse_record(ServerRecord, value, str(file), "start the server again")

    def write_record(self, number: int, record: ServerRecord) -> None:
        """Say that a server answers."""
        write_record(self._server_file(number, "json"), record)

    def remove_record(self, number: int) -> None:
        """Say that a server does not answer."""
        self._server_file(number, "json").unlink(missing_ok=True)

    def give_up(self, number: int, start: str) -> None:
        """Ask for another start of a server, whose present one does not answer any more."""
        write_text(self._server_file(number, "lost"), start)

    def is_given_up(self, number: int, start: str) -> bool:
        """Whether the trainer asks for another start."""
        file = self._server_file(number, "lost")
        try:
            return file.read_text(encoding="utf-8") == start
        except FileNotFoundError:
            return False

    def _server_file(self, number: int, kind: str) -> Path:
        folder = self.path / "servers"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{number}.{kind}"
