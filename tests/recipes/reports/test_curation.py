"""The report of a curation, from a manifest written by hand."""

from pathlib import Path

import pytest

from recipes.reports.curation import print_summary, write_report
from recipes.runs.curated_folder import CurationManifest, Example

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def manifest() -> CurationManifest:
    manifest = CurationManifest(read=10, steps=["form", "lengths", "judge"])
    for outcome in ("kept", "kept", "undecided"):
        manifest.add_outcome(outcome, "rag")
    for step, count in (("form", 2), ("judge", 5)):
        for _ in range(count):
            manifest.count_drop(step, "multi_turn")
    manifest.count_change("lengths")
    for score, outcome in ((9, "kept"), (10, "kept"), (3, "dropped")):
        manifest.count_verdict("accept" if score > 5 else "reject", ())
        manifest.count_scores({"correctness": score}, outcome)
    manifest.count_verdict("undecided", ["hallucination"])
    for number in range(5):
        manifest.add_example("judge", Example("a.jsonl", number, "reject", SCRIPT, "a|b"))
    return manifest


def test_the_report_has_counts_and_examples(manifest: CurationManifest, tmp_path: Path) -> None:
    assert manifest.is_complete
    path = write_report(tmp_path, manifest)
    text = path.read_text()
    assert "10 conversations were read: 2 are kept, 7 dropped and 1 undecided" in text
    for row in (
        "| form | 0 | 2 | 8 |",
        "| lengths | 1 | 0 | 8 |",
        "| judge | 0 | 5 | 3 |",
        "| rag | 2 | 0 | 1 |",
        "| reject | 1 |",
        "| hallucination | 1 |",
        "| correctness | 9.5 | 3 |",
        "| a.jsonl, record 0 | reject | &lt;script&gt;alert(1)&lt;/script&gt; | a\\|b |",
    ):
        assert row in text
    # the first few
    assert "record 2" in text
    assert "record 3" not in text
    page = path.with_suffix(".html").read_text()
    assert "record 2" in page
    assert SCRIPT not in page


def test_without_a_judge_its_tables_are_left_out(
    manifest: CurationManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(manifest)
    assert "dimension" in capsys.readouterr().out
    print_summary(CurationManifest(read=1, dropped=1, steps=["form"]))
    out = capsys.readouterr().out
    assert "form" in out
    assert "dimension" not in out


def test_a_manifest_is_read_back(manifest: CurationManifest, tmp_path: Path) -> None:
    manifest.write(tmp_path)
    assert CurationManifest.read_from(tmp_path) == manifest


def test_counts_of_shards_add_up(manifest: CurationManifest) -> None:
    total = CurationManifest(steps=manifest.steps)
    total.add(manifest)
    total.add(manifest)
    assert (total.read, total.dropped_by["judge"], total.is_complete) == (20, 10, True)
    assert total.dimensions["correctness"]["kept"] == [*[0] * 8, 2, 2]
    assert total.examples == manifest.examples
