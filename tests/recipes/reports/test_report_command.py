from pathlib import Path

from recipes.reports.run import write_report
from tests.helpers.manifests import write_stage_manifest


def test_a_stage_on_data_without_token_counts_has_a_dash_for_its_entropy(tmp_path: Path) -> None:
    (tmp_path / "phase1").mkdir()
    write_stage_manifest(
        tmp_path / "phase1",
        tokens=1000,
        validation_loss=5.5,
        unigram_entropy=None,
        seconds=9.0,
        checkpoint="checkpoints/step=00000001",
    )
    report = write_report(tmp_path).read_text()
    assert (
        "| phase1 | finished | 1,000 | 5.500 | - | - | 9 | phase1/checkpoints/step=00000001 | - |"
        in report
    )
