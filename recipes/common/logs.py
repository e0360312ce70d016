"""Logging of the command line: progress and warnings on stderr, while stdout is for results."""

import logging
import os
import sys
from pathlib import Path

from recipes.common.environment import LOG_FILE

FILE_FORMAT = "%(asctime)s %(levelname)s %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
PACKAGES = ("recipes", "data_prep", "evaluation", "slurm")


class _OwnRecords(logging.Handler):
    """Takes only what this project's packages log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] in PACKAGES


class _FileHandler(_OwnRecords, logging.FileHandler):
    """Appends to a file."""


class _StderrHandler(_OwnRecords, logging.StreamHandler):
    """Writes to what ``sys.stderr`` is at the time of a record."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr


class _Formatter(logging.Formatter):
    """The message alone on a terminal, with the time in a cluster's logs; warnings are marked."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno >= logging.WARNING:
            message = f"{record.levelname.lower()}: {message}"
        if "SLURM_JOB_ID" in os.environ:
            message = f"{self.formatTime(record, TIME_FORMAT)} {message}"
        return message


def configure(verbose: bool = False) -> None:
    """Show what this project logs: progress and warnings, with ``verbose`` details too."""
    root = logging.getLogger()
    # a second command in this process replaces the handlers of the first
    for handler in list(root.handlers):
        if isinstance(handler, _OwnRecords):
            root.removeHandler(handler)
            handler.close()

    terminal = _StderrHandler()
    terminal.setFormatter(_Formatter())
    root.addHandler(terminal)
    # of several processes of a task the first one speaks for all
    if LOG_FILE in os.environ and os.environ.get("RANK", "0") == "0":
        path = Path(os.environ[LOG_FILE])
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter(FILE_FORMAT, datefmt=TIME_FORMAT))
        root.addHandler(file)

    level = logging.INFO
    if verbose:
        level = logging.DEBUG
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)
