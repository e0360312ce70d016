"""Patches to nemo-run: another version is refused, and scripts replace those that it writes."""

import logging
import sys
from pathlib import Path

import pytest

from recipes.compat import slurm_executor


def test_another_nemo_run_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(slurm_executor, "WRITTEN_FOR", {"nemo-run": "0.0.1"})
    loaded = set(sys.modules)
    with pytest.raises(RuntimeError, match=r"slurm_executor.py patches nemo-run 0.0.1 but "):
        slurm_executor.import_slurm_executor("")
    with pytest.raises(RuntimeError, match=r"slurm_executor.py patches nemo-run 0.0.1 but "):
        slurm_executor.use_home("/home")
    assert set(sys.modules) == loaded


class Experiment:
    """Writes its scripts as nemo-run's does."""

    def __init__(self, folder: Path) -> None:
        self._exp_dir = str(folder)

    def dryrun(self, log: bool = True) -> None:
        Path(self._exp_dir, "one_sbatch.sh").write_text("nemo-run's own")


def test_an_experiment_sends_other_scripts_than_it_writes(tmp_path) -> None:
    experiment = Experiment(tmp_path)
    slurm_executor.use_scripts(experiment, {"one": "ours"})
    experiment.dryrun(log=False)
    assert (tmp_path / "one_sbatch.sh").read_text() == "ours"


def test_a_script_that_nemo_run_does_not_write_is_refused(tmp_path) -> None:
    experiment = Experiment(tmp_path)
    slurm_executor.use_scripts(experiment, {"two": "ours"})
    with pytest.raises(RuntimeError, match=r"two_sbatch.sh, which nemo-run does not write"):
        experiment.dryrun()


def test_log_handlers_survive_an_experiment() -> None:
    root = logging.getLogger()
    handlers = list(root.handlers)
    with slurm_executor.keep_log_handlers():
        logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    assert root.handlers == handlers
