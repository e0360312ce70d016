"""nemo-run 0.11.1: its Slurm executor without its other back ends, and scripts of our own for it.

- ``nemo_run/__init__.py`` imports eleven back ends, which takes 4 to 8 s. A dry run needs
  ``nemo_run/core/execution/slurm.py`` alone, which takes one second.
- ``nemo_run/core/execution/utils.py``, ``fill_template`` compiles a template anew for each job.
  That of ``templates/slurm.sh.j2`` prints each line of the script into the log, and gives all
  addresses of the first node where one is expected.
- ``nemo_run/run/torchx_backend/schedulers/slurm.py`` reads ``SLURM_JOB_DIRS`` once, when it is
  imported, and writes each job's script into the experiment's folder before it sends the folder.
- ``nemo_run/core/frontend/console/api.py``, ``configure_logging`` drops the handlers of the root
  logger when an experiment is made.
"""

import importlib.metadata
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from recipes.compat.patching import replace, require_versions

WRITTEN_FOR = {"nemo-run": "0.11.1"}
_FILE = "recipes/compat/slurm_executor.py"

# packages whose __init__ imports what the Slurm executor does not need
_PACKAGES = (
    "nemo_run",
    "nemo_run.core",
    "nemo_run.core.execution",
    "nemo_run.core.frontend",
    "nemo_run.core.frontend.console",
    "nemo_run.core.packaging",
    "nemo_run.core.serialization",
    "nemo_run.core.tunnel",
)


def import_slurm_executor(template: str) -> None:
    """Make ``nemo_run.core.execution.slurm`` importable, with another template of batch scripts.

    A process that has not imported nemo-run gets the executor alone, and cannot use the rest.

    Args:
        template: of jinja, which gets the variables of nemo-run's own.

    Raises:
        RuntimeError: another nemo-run is installed than these patches were written for.
    """
    require_versions(WRITTEN_FOR, _FILE)
    root = Path(str(importlib.metadata.distribution("nemo-run").locate_file("nemo_run")))
    if "nemo_run" not in sys.modules:
        _leave_out_other_back_ends(root)

    import jinja2
    from nemo_run.core.execution import slurm

    if slurm.fill_template.__module__ == __name__:
        return
    # batch scripts are shell, where nothing is escaped as HTML
    compiled = jinja2.Environment(keep_trailing_newline=True).from_string(template)  # noqa: S701

    def fill_template(template_name: str, variables: dict[str, Any]) -> str:
        return compiled.render(**variables)

    replace(slurm, "fill_template", fill_template, _FILE)


def _leave_out_other_back_ends(root: Path) -> None:
    for name in _PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package

    # interactive sessions, for a type annotation
    base = ModuleType("nemo_run.devspace.base")
    base.DevSpace = object  # type: ignore[attr-defined]
    sys.modules["nemo_run.devspace"] = ModuleType("nemo_run.devspace")
    sys.modules[base.__name__] = base


def use_home(folder: str) -> None:
    """Keep nemo-run's experiments and its list of Slurm jobs in ``folder``.

    Raises:
        RuntimeError: another nemo-run is installed than this patch was written for.
    """
    require_versions(WRITTEN_FOR, _FILE)
    import nemo_run as run
    from nemo_run.run.torchx_backend.schedulers import slurm as scheduler

    run.config.set_nemorun_home(folder)
    replace(scheduler, "SLURM_JOB_DIRS", f"{folder}/.slurm_jobs", _FILE)


@contextmanager
def keep_log_handlers() -> Iterator[None]:
    """Restore the root logger's handlers, which a nemo-run experiment drops."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    try:
        yield
    finally:
        root.handlers[:] = handlers


def use_scripts(experiment: Any, scripts: Mapping[str, str]) -> None:
    """Let a nemo-run experiment submit these batch scripts, in place of those that it writes.

    ``Experiment.run`` calls ``dryrun``, which writes the scripts, and then sends their folder.

    Args:
        experiment: before it runs.
        scripts: job -> batch script.
    """
    write_own_scripts = experiment.dryrun

    def dryrun(**options: Any) -> None:
        write_own_scripts(**options)
        for job, script in scripts.items():
            path = Path(experiment._exp_dir) / f"{job}_sbatch.sh"
            if not path.exists():
                raise RuntimeError(f"{_FILE} replaces {path}, which nemo-run does not write")
            path.write_text(script, encoding="utf-8")

    experiment.dryrun = dryrun
