"""Logging of the command line: progress and warnings on stderr, while stdout is for results."""

import logging
import os
import sys

PACKAGES = ("recipes", "data_prep", "evaluation", "slurm")


class _StderrHandler(logging.StreamHandler):
    """Writes to what ``sys.stderr`` is at the time of a record, and only what this project's packages log."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] in PACKAGES


class _Formatter(logging.Formatter):
    """The message alone on a terminal; the time before it in a cluster's logs; a warning says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        time = (
            f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} "
            if "SLURM_JOB_ID" in os.environ
            else ""
        )
        return f"{time}{level}{message}"


def configure(verbose: bool = False) -> None:
    """Show what this project logs: progress and warnings, with ``verbose`` details too."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _StderrHandler)]:
        root.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(_Formatter())
    root.addHandler(handler)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)
