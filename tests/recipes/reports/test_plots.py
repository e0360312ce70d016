"""The pictures: their data is the recipes', and every stage and component is named in them."""

import struct
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from recipes.cli import main as cli
from recipes.common.errors import UserError
from recipes.registry.resolve import resolve_pretraining
from recipes.reports import charts
from recipes.reports.document import Chart
from recipes.reports.plots import (
    assumptions,
    lr_chart,
    plot_lr,
    plot_mixture,
    pretraining,
    schedule_curve,
)

pytestmark = pytest.mark.slow

STAGES = ["phase1", "phase2", "phase3", "phase4", "lce_32k", "lce_128k", "lce_512k"]


def texts(svg: Path) -> str:
    return "\n".join(
        "".join(node.itertext())
        for node in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
    )


def stages(chart: Chart) -> list[str]:
    return [span.name.split()[0] for span in chart.spans]


def test_a_curve_is_the_recipes_schedule_over_all_tokens() -> None:
    chart = lr_chart("8b")
    assert stages(chart) == STAGES
    assert [span.start for span in chart.spans] == [
        *(0, 10e12, 12e12, 14e12, 14.5e12, 14.75e12, 14.9e12)
    ]
    for stage, series, span in zip(STAGES, chart.series, chart.spans, strict=True):
        recipe = resolve_pretraining(stage, "8b")
        assert (series.x[0], series.x[-1]) == (span.start, span.start + recipe.tokens.value)
        assert series.x == sorted(series.x)
        rates = [recipe.schedule.lr(tokens - span.start) for tokens in series.x]
        assert series.y == pytest.approx(rates, rel=1e-9, abs=1e-18)
    assert max(chart.series[0].y) == 0.02
    assert 10**9 in chart.series[0].x, "the end of the warm-up is a point"


def test_an_override_moves_the_points() -> None:
    recipe = resolve_pretraining("phase1", "8b", ["schedule.warmup_tokens=2000000000"])
    assert 2 * 10**9 in schedule_curve(recipe.schedule, 10**13)[0]


def test_a_rate_rests_on_the_assumptions_of_the_stages_that_it_continues() -> None:
    assumed = {stage: list(leaves) for stage, leaves in assumptions("8b").items()}
    assert assumed["phase1"] == ["phase1: schedule.warmup_tokens", "phase1: tokens_per_batch"]
    assert assumed["phase4"][: len(assumed["phase3"])] == assumed["phase3"]
    assert "phase3: schedule.lr_end" in assumed["phase4"]
    assert assumed["lce_32k"] == assumed["lce_512k"] == []
    assert {stage: list(leaves) for stage, leaves in assumptions("tiny").items()} == assumed
    lines = [series.line for series in lr_chart("8b").series]
    assert lines == ["--"] * 4 + ["-"] * 3


def test_every_size_has_its_stages() -> None:
    assert stages(lr_chart("3b")) == STAGES[:-1]
    with pytest.raises(UserError, match="unknown size '9b'"):
        lr_chart("9b")


def test_the_learning_rates_picture_names_stages_units_and_origins(tmp_path: Path) -> None:
    plot_lr("8b", tmp_path / "lr.svg")
    words = texts(tmp_path / "lr.svg").replace("\n", " ")
    for expected in (
        *STAGES,
        "tokens of the run",
        "10T",
        "base learning rate",
        "rate rests on an assumed number",
    ):
        assert expected in words
    assert "Power Scheduler paper" in words
    assert "lce_32k 250B" in words


def test_the_mixtures_picture_names_and_numbers_every_component(tmp_path: Path) -> None:
    plot_mixture("8b", tmp_path / "mixture.svg")
    words = texts(tmp_path / "mixture.svg")
    for stage in STAGES:
        assert stage in words
        for component, share in resolve_pretraining(stage, "8b").mixture.items():
            assert component in words
            assert f"{share.value:g}" in words.splitlines()
    assert "42 of the 42 shares" in words
    assert "date>" not in (tmp_path / "mixture.svg").read_text(), (
        "the same recipes give the same file"
    )


def test_components_are_told_apart() -> None:
    components = {component for recipe in pretraining("8b") for component in recipe.mixture}
    assert len(set(charts.TURNS)) == len(charts.TURNS) >= len(components)


def test_the_command_writes_a_picture_1200_pixels_wide(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["granite41", "plot", "mixture", "--size", "3b"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code or 0, capsys.readouterr().out) == (0, "plots/mixture.png\n")
    header = Path("plots/mixture.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (1200, 760)


def test_another_suffix_is_refused_before_anything_is_drawn(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(charts, "_draw", None)
    for plot in (plot_lr, plot_mixture):
        with pytest.raises(UserError, match=r"ends in '.pdf', expected a picture's .png or .svg"):
            plot("8b", tmp_path / "picture.pdf")
    assert not list(tmp_path.iterdir())
