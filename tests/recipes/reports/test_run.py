"""The run's report, from run folders written by hand: finished, running, failed and damaged."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from evaluation.results import Evaluation, Unit, write_evaluation
from recipes.common.errors import UserError
from recipes.registry.resolve import resolve
from recipes.reports.records import Problems, read_stages
from recipes.reports.run import print_summary, write_report
from recipes.runs.merge_manifest import MergeManifest, MergeParent
from recipes.runs.stage_folder import write_recipe
from recipes.runs.stage_manifest import ShardProgress, TrainingShard
from tests.helpers.manifests import write_stage_manifest
from tests.helpers.report_pages import BATCH, Page, write_stage

# its pages have charts
pytestmark = pytest.mark.slow


def report(run: Path) -> tuple[str, Page]:
    return write_report(run).read_text(), Page((run / "report.html").read_text())


def assert_self_contained(page: Page, run: Path) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {
        tag for tag, _ in page.tags
    }
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for _, attrs in page.tags:
        assert not {"src", "srcset", "data"} & attrs.keys()
        # of the charts: colors, and marks and clips that they define themselves
        assert "url(" not in str(attrs.get("style"))
        for reference in (attrs.get("xlink:href"), attrs.get("clip-path")):
            if reference is not None:
                assert reference.removeprefix("url(").rstrip(")").removeprefix("#") in anchors
        assert not any(name.startswith("on") for name in attrs)
        href = attrs.get("href")
        if href and href.startswith("#"):
            assert href[1:] in anchors
        elif href:
            assert re.fullmatch(r"[a-z0-9_]+/[\w./%-]*", href)
            assert (run / unquote(href)).exists()
    assert "url(" not in page.words
    assert "@import" not in page.words


ERROR = "<script>alert(1)</script> | a `b` [c](http://d)\n\x1b[31mCUDA out of memory"


@pytest.fixture
def failed_chain(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a run of a finished and a failed stage and return their manifests."""
    data = {
        "code": {"weight": 0.2, "bin_sha256": "aa"},
        "text": {"weight": 0.8, "bin_sha256": "bb"},
    }
    for prefix, shard in data.items():
        shard |= {"component": prefix, "idx_sha256": "cc"}
    first = write_stage(
        tmp_path,
        "phase1",
        153,
        checkpoint="checkpoints/step=00000153",
        validation_loss=6.5,
        unigram_entropy=7.0,
        data=data,
        # keys of an earlier version
        ledger={"aa": {"prefix": "code", "next_document": 120, "epochs": 0.31}},
        read_again={"code": 1.5},
    )
    (tmp_path / "phase1/checkpoints/step=00000153").mkdir(parents=True)
    second = write_stage(tmp_path, "phase2", 12, "failed", error=ERROR)
    return first, second


def test_a_chain_with_a_failed_stage(tmp_path: Path, failed_chain) -> None:
    first, second = failed_chain
    markdown, page = report(tmp_path)

    assert_self_contained(page, tmp_path)
    links = [str(attrs["href"]) for _, attrs in page.tags if "href" in attrs]
    assert [link for link in links if link.startswith("#")] == ["#phase1", "#phase2"]

    row = page.cells("phase1")
    assert row["tokens"] == row["tokens done"] == row["tokens of the run"] == f"{first['tokens']:,}"
    assert row["status"] == "finished"
    assert row["steps"] == "153"
    assert row["wall time"] == "75 s"
    assert row["tokens/s"] == "1,000"
    assert row["validation loss"] == "6.500"
    assert row["unigram entropy"] == "7.000"
    assert row["below entropy"] == "7.1%"

    row = page.cells("phase2")
    assert row["status"] == "failed"
    assert row["tokens"] == f"{second['tokens']:,}"
    assert row["tokens done"] == f"{12 * BATCH:,}"
    assert row["tokens of the run"] == f"{first['tokens'] + 12 * BATCH:,}"
    assert row["validation loss"] == "-"
    done = f"{12 * BATCH:,}"
    assert f"| phase2 | failed | {second['tokens']:,} | {done} |" in markdown
    assert f"| 12 | - | {row['unigram entropy']} | - | 75 s | 1,000 |" in markdown
    assert "could not be read" not in markdown


def test_the_charts_of_the_run_come_before_the_stages(tmp_path: Path, failed_chain) -> None:
    page = report(tmp_path)[1]
    assert page.points("training") == [153, 12, 153, 12]
    assert page.points("validation") == [15, 1, 15, 1]
    assert page.points("applied")[2:] == [153, 12]
    assert len(page.points("recipe")) == 4
    assert min(page.points("recipe")) > 100
    assert page.points("unigram entropy") == [2, 2]


def test_the_data_that_was_read_is_listed(tmp_path: Path, failed_chain) -> None:
    page = report(tmp_path)[1]
    assert ["code", "1", "20.00%", "20.00%"] in page.rows
    assert ["code", "0.2", "120", "0.31"] in page.rows
    assert ["text", "0.8", "-", "-"] in page.rows
    assert "code (1.5 epochs)" in page.words


def test_the_error_of_a_stage_is_shown_as_it_is(tmp_path: Path, failed_chain) -> None:
    markdown, page = report(tmp_path)
    assert ERROR.partition("\x1b")[0] + "\N{REPLACEMENT CHARACTER}[31mCUDA" in page.words
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| a \\`b\\` \\[c\\](http://d)" in markdown
    assert "\x1b" not in markdown


def test_the_rate_applied_lies_on_the_recipes_curve(tmp_path: Path) -> None:
    write_stage(tmp_path, "phase1", 100, "running")
    (stage,) = read_stages(Problems(tmp_path))
    curve = list(zip(*stage.curve("lr", shift=-1), strict=True))
    assert len(curve) == 100
    for tokens, rate in curve:
        assert rate == pytest.approx(stage.recipe.schedule.lr(tokens), rel=1e-12)


def test_an_overridden_rate_is_the_one_drawn(tmp_path: Path) -> None:
    (tmp_path / "phase1").mkdir()
    recipe = resolve("phase1", "tiny", ["schedule.a=2.0"])
    write_recipe(tmp_path / "phase1", recipe)
    schedule = read_stages(Problems(tmp_path))[0].recipe.schedule
    assert (
        schedule.lr(10**6)
        == recipe.schedule.lr(10**6)
        != resolve("phase1", "tiny").schedule.lr(10**6)
    )


def test_a_merge_names_its_parents(tmp_path: Path) -> None:
    write_stage(tmp_path, "phase3", 3)
    write_stage(tmp_path, "phase4", 3)
    parents = [
        MergeParent("phase3/a", "NeMo checkpoint", {}),
        MergeParent("phase3/<b>", "NeMo checkpoint", {}, "phase3", "tiny", "b", 2000),
    ]
    base = MergeParent("phase2", "NeMo checkpoint", {})
    merge = MergeManifest("task", [0.25, 0.75], parents, base, 1, [], {})
    merge.write(tmp_path / "phase4")
    (tmp_path / "merged").mkdir()
    replace(merge, method="linear", parents=[base], weights=[1.0], base=None).write(
        tmp_path / "merged"
    )
    markdown, page = report(tmp_path)
    task = ["phase4/merge_manifest.json", "task"]
    assert [*task, "phase3/a", "-", "-", "-", "0.25"] in page.rows
    assert [*task, "phase3/<b>", "phase3", "b", "2,000", "0.75"] in page.rows
    assert [*task, "phase2", "-", "-", "-", "base"] in page.rows
    assert ["merged/merge_manifest.json", "linear", "phase2", "-", "-", "-", "1"] in page.rows
    assert "| phase3/&lt;b&gt; | phase3 | b | 2,000 | 0.75 |" in markdown
    assert_self_contained(page, tmp_path)


def test_shards_are_summed_by_component(tmp_path: Path) -> None:
    shards = {f"web/{i}": TrainingShard(0.01, "common_crawl", f"{i}", "") for i in range(60)}
    shards["maths"] = TrainingShard(0.4, "math", "m", "")
    write_stage(
        tmp_path,
        "phase1",
        3,
        data={prefix: asdict(shard) for prefix, shard in shards.items()},
        data_progress={"0": asdict(ShardProgress("web/0", 7, 0.5))},
    )
    page = report(tmp_path)[1]
    assert ["common_crawl", "60", "60.00%", "59.00%"] in page.rows
    assert ["math", "1", "40.00%", "7.00%"] in page.rows
    assert ["code", "-", "-", "20.00%"] in page.rows
    assert ["web/0", "0.01", "7", "0.5"] in page.rows
    assert ["and 11 more", "-", "-", "-"] in page.rows


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a JSON list"),
        ("\udcff", "is not UTF-8 text (byte 0)"),
        (
            '{"status": ["<b>"], "tokens": "many", "seconds": NaN, "checkpoint": 5}',
            "has no key 'stage'",
        ),
        ("[" * 10**5, "is not valid JSON"),
    ],
)
def test_a_damaged_manifest_does_not_end_the_report(
    tmp_path: Path, content: str, problem: str
) -> None:
    write_stage(tmp_path, "phase1", 20, "running")
    (tmp_path / "phase1/manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    markdown, page = report(tmp_path)
    assert "tokens" not in page.cells("phase1")
    assert page.cells("phase1")["tokens done"] == f"{20 * BATCH:,}"
    assert page.points("training") == [20, 20]
    assert f"phase1/manifest.json: {problem}" in page.words
    assert f"phase1/manifest.json: {problem}" in markdown.replace("\\", "")
    assert_self_contained(page, tmp_path)


def test_a_manifest_with_another_type_at_a_key_is_listed(tmp_path: Path) -> None:
    write_stage(tmp_path, "phase1", 20, seconds="<b>", validation_loss=6.5)
    page = report(tmp_path)[1]
    assert "phase1/manifest.json: key 'seconds' holds '<b>' (str)" in page.words
    assert "validation loss" not in page.cells("phase1")
    assert page.cells("phase1")["tokens done"] == f"{20 * BATCH:,}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff", "is not UTF-8 text (byte 0)"),
        (b'{"method": 3, "weights": []}', "key 'method' holds 3 (int)"),
    ],
)
def test_a_damaged_merge_manifest_is_listed(tmp_path: Path, content: bytes, problem: str) -> None:
    write_stage(tmp_path, "phase4", 3)
    (tmp_path / "phase4/merge_manifest.json").write_bytes(content)
    markdown, page = report(tmp_path)
    assert f"phase4/merge_manifest.json: {problem}" in page.words
    assert f"phase4/merge_manifest.json: {problem}" in markdown


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "phase1").mkdir()
    page = report(tmp_path)[1]
    assert "phase1/manifest.json: no such file" in page.words
    for name in ("recipe.yaml", "metrics/steps.jsonl"):
        assert f"phase1/{name}: cannot be read (No such file or directory)" in page.words
    assert page.cells("phase1") == {"stage": "phase1"}
    assert page.words.count("nothing to draw yet") == 4


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ("values: 3", "has no mapping 'values'"),
        ("{", "is not valid YAML"),
        ("[" * 10**5, "is not valid YAML"),
        ("\udcff", "is not UTF-8 text (byte 0)"),
        ("size: 9b\nvalues: {}", "is damaged"),
        ("size: tiny\nvalues: {schedule.a: {value: 4}}", "is damaged"),
        (
            "size: tiny\nvalues: {schedule.a: {value: [1]}, schedule.b: {value: [1]}}",
            "is damaged",
        ),
    ],
)
def test_a_damaged_recipe_leaves_its_curve_out(tmp_path: Path, recipe: str, problem: str) -> None:
    write_stage(tmp_path, "phase1", 5)
    (tmp_path / "phase1/recipe.yaml").write_bytes(recipe.encode("utf-8", "surrogateescape"))
    page = report(tmp_path)[1]
    assert f"phase1/recipe.yaml: {problem}" in page.words
    assert page.points("recipe") == []
    assert page.points("applied") == [5, 5]


def test_a_recipe_with_a_number_out_of_all_bounds_is_damaged(tmp_path: Path) -> None:
    write_stage(tmp_path, "phase1", 5)
    path = tmp_path / "phase1/recipe.yaml"
    path.write_text(path.read_text().replace("value: -0.51", f"value: {2**63}"))
    assert "phase1/recipe.yaml: is damaged (UserError: schedule.b is" in report(tmp_path)[1].words


def test_a_rate_that_overflows_later_in_the_stage_is_left_out(tmp_path: Path) -> None:
    write_stage(tmp_path, "phase1", 5)
    path = tmp_path / "phase1/recipe.yaml"
    path.write_text(path.read_text().replace("value: -0.51", "value: 60"))
    page = report(tmp_path)[1]
    assert page.points("recipe") == []
    assert page.points("applied") == [5, 5]


def test_a_damaged_evaluation_is_listed(tmp_path: Path) -> None:
    write_stage(tmp_path, "phase1", 5)
    path = tmp_path / "phase1/eval/smoke/evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert "phase1/eval/smoke/evaluation.json: is not valid JSON" in report(tmp_path)[1].words


def test_damaged_lines_are_counted_and_a_cut_one_is_not(tmp_path: Path) -> None:
    write_stage(tmp_path, "phase1", 5)
    lines = (
        b"no json",
        b"[1]",
        b'{"step": "\xff"}',
        b'{"step": "6", "tokens": []}',
        b'{"step": 6, "tokens": 49152, "loss": NaN, "lr": 1e999}',
        b'{"step": 7, "tok',
    )
    with (tmp_path / "phase1/metrics/steps.jsonl").open("ab") as file:
        file.write(b"\n".join(lines))
    page = report(tmp_path)[1]
    assert "phase1/metrics/steps.jsonl: damaged lines left out: 4" in page.words
    for key in ("loss", "lr"):
        words = f"values of {key!r} that are no finite numbers left out: 1"
        assert f"phase1/metrics/steps.jsonl: {words}" in page.words
    assert page.cells("phase1")["steps"] == "6"
    assert page.points("training") == [5, 5]


@pytest.mark.parametrize(
    "checkpoint", ["../../secret", "/etc", "javascript:alert(1)", "a\x00b", "gone", "x" * 5000]
)
def test_a_checkpoint_elsewhere_is_no_link(tmp_path: Path, checkpoint: str) -> None:
    write_stage(tmp_path, "phase1", 3, checkpoint=checkpoint)
    markdown, page = report(tmp_path)
    assert_self_contained(page, tmp_path)
    assert page.cells("checkpoint")["value"].endswith(" does not exist")
    assert "does not exist" in markdown


def test_a_folder_that_is_no_run_is_refused_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    markdown, page = report(tmp_path)
    assert "No stage has begun." in markdown
    assert "No stage has begun." in page.words


def test_a_thinned_curve_is_drawn_with_its_band(tmp_path: Path) -> None:
    write_stage(tmp_path, "phase1", 1_200)
    page = report(tmp_path)[1]
    assert page.points("training") == [400, 400]
    # along the lower bounds and back along the upper ones
    assert page.bands("training") == [400, 400]


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
    assert "unigram entropy |" not in report
    assert "| phase1 | finished | 1,000 | 1,000 | 1,000 | 5.500 | 9 s |" in report
    assert "| checkpoint | checkpoints/step=00000001 does not exist |" in report


def write_manifest_only(run: Path, name: str, **manifest: object) -> None:
    (run / name).mkdir(parents=True)
    write_stage_manifest(run / name, stage=name, **manifest)


def write_smoke(run: Path, stage: str, label: str, units: list[Unit], passed: bool) -> None:
    folder = run / stage / "eval" / f"smoke{label}"
    evaluation = Evaluation(
        suite="smoke",
        size="tiny",
        stage=stage,
        label=label,
        model="hf",
        fingerprint="00",
        backend={},
        limit=None,
        expected=[],
        units=units,
        failures={},
        versions={},
        finished="",
    )
    write_evaluation(folder, evaluation)
    (folder / "gate.json").write_text(json.dumps({"passed": passed, "checks": []}))


def smoke_unit(task: str, score: float, **more: object) -> Unit:
    return Unit(task, None, "acc,none", score, None, 10, 10, **more)


def test_the_summary_has_a_row_a_stage(tmp_path: Path, capsys) -> None:
    write_manifest_only(
        tmp_path,
        "phase1",
        status="finished",
        tokens=1_234_567,
        validation_loss=6.0,
        unigram_entropy=8.0,
    )
    write_manifest_only(tmp_path, "phase2", status="failed", tokens=9)
    bits = Unit("smoke_text", None, "bits_per_byte,none", 2.5, None, 10, 10, percent=False)
    units = [
        smoke_unit("cloze", 40.0),
        smoke_unit("recall", 20.0),
        smoke_unit("broken", float("nan")),
        bits,
    ]
    write_smoke(tmp_path, "phase1", "", units, passed=False)
    write_smoke(tmp_path, "phase1", "unmerged", [smoke_unit("cloze", 99.0)], passed=True)

    print_summary(tmp_path)

    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert header.split("  ")[0].strip() == "stage"
    assert rows[0].split() == [
        *("phase1", "finished", "1,234,567", "6.000", "25.0%"),
        *("1", "of", "1", "failed", "smoke", "30.0,", "2.50", "bits_per_byte"),
    ]
    assert rows[1].split()[:2] == ["phase2", "failed"]


def test_a_run_that_has_not_begun_has_an_empty_summary(tmp_path: Path, capsys) -> None:
    print_summary(tmp_path)
    assert capsys.readouterr().out.strip() == ""
