"""nemo-run's Slurm executor alone: ``import nemo_run`` takes 4 to 8 s for its eleven back ends, this a second."""

import importlib.metadata
import sys
from types import ModuleType

# packages of nemo-run 0.11.1 whose __init__ imports what the Slurm executor does not need
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


def load_slurm_only() -> None:
    """Make ``nemo_run.core.execution.slurm`` importable without the rest; no more of nemo-run is of use afterwards.

    Does nothing in a process that has imported nemo-run.
    """
    if "nemo_run" in sys.modules:
        return
    root = str(importlib.metadata.distribution("nemo-run").locate_file("nemo_run"))
    for name in _PACKAGES:
        package = ModuleType(name)
        package.__path__ = [root + name.removeprefix("nemo_run").replace(".", "/")]
        sys.modules[name] = package
    # interactive sessions, for a type annotation
    base = ModuleType("nemo_run.devspace.base")
    base.DevSpace = object  # type: ignore[attr-defined]
    sys.modules["nemo_run.devspace"] = ModuleType("nemo_run.devspace")
    sys.modules[base.__name__] = base

    import jinja2
    from nemo_run.core.execution import slurm

    # nemo-run compiles its template anew for each job, which takes as long as all else
    templates = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(f"{root}/core/execution/templates")
    )
    slurm.fill_template = lambda name, variables: templates.get_template(name).render(**variables)
