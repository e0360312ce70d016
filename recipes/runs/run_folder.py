"""A run's folder ``RUNS/<run>/``, which holds a folder for each stage."""

from pathlib import Path

from recipes.common.errors import UserError
from recipes.registry.stages import STAGES
from recipes.runs.merge_manifest import MERGE_MANIFEST

# folders of a run beside those of its stages
_OTHERS = ("data", "logs", "nemo_run", "slurm")


def require_run_folder(run_folder: Path) -> None:
    """Raise UserError unless a folder is a run's, or empty, as a run's is before it begins."""
    remedy = "expected a run's; name one that `granite41 run` wrote"
    if not run_folder.is_dir():
        raise UserError(f"{run_folder}: no such folder, {remedy}")

    names = {path.name for path in run_folder.iterdir()}
    has_merges = any(run_folder.glob(f"*/{MERGE_MANIFEST}"))
    if names and not has_merges and names.isdisjoint((*STAGES, *_OTHERS)):
        raise UserError(f"{run_folder}: holds no stage, {remedy}")
