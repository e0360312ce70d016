"""Which checkpoint of a stage stands for it."""

import pytest

from recipes.common.errors import UserError
from recipes.model.exported import exported_folder
from recipes.runs.stage_folder import MERGED
from tests.helpers.manifests import write_stage_manifest


def test_a_stage_stands_for_its_merge_and_unmerged_for_its_own_checkpoint(tmp_path) -> None:
    stage = tmp_path / "lce_32k"
    write_stage_manifest(stage, stage="lce_32k", checkpoint="checkpoints/last")
    own = stage / "checkpoints/last"
    # also while the merge is being made
    for _ in range(2):
        assert exported_folder("lce_32k", tmp_path, tmp_path / "o", unmerged=True) == (
            stage / "hf_unmerged",
            own,
        )
        (stage / MERGED).mkdir(exist_ok=True)
    assert exported_folder("lce_32k", tmp_path, tmp_path / "o") == (stage / "hf", stage / MERGED)
    (stage / "hf").mkdir()
    assert exported_folder("lce_32k", tmp_path, tmp_path / "o") == (stage / "hf", None)


def test_nothing_is_unmerged_in_a_stage_without_a_merge(tmp_path) -> None:
    write_stage_manifest(tmp_path / "phase1", checkpoint="checkpoints/last")
    with pytest.raises(UserError, match="has no merge"):
        exported_folder("phase1", tmp_path, tmp_path / "o", unmerged=True)
