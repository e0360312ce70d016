"""A run's folder is told from any other by what it holds."""

from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.runs.run_folder import require_run_folder


@pytest.mark.parametrize("name", ["phase1", "data", "slurm", "logs", "merged/merge_manifest.json"])
def test_a_folder_with_a_part_of_a_run_is_a_runs(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (tmp_path / "notes.txt").touch()
    require_run_folder(tmp_path)


def test_an_empty_folder_is_a_runs_and_another_is_not(tmp_path: Path) -> None:
    require_run_folder(tmp_path)
    (tmp_path / "cat.jpg").touch()
    with pytest.raises(UserError, match="holds no stage, expected a run's"):
        require_run_folder(tmp_path)
    with pytest.raises(UserError, match="no such folder, expected a run's"):
        require_run_folder(tmp_path / "absent")
