"""The pictures: their data is the recipes', and every stage and component is named in them."""

import struct
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from recipes.cli import main as cli
from recipes.common.errors import UserError
from recipes.registry.resolve import resolve_pretraining
from recipes.reports import plots
from recipes.reports.plots import COMPONENT_STYLES, lr_curves, mixtures, plot_lr, plot_mixture

STAGES = ["phase1", "phase2", "phase3", "phase4", "lce_32k", "lce_128k", "lce_512k"]


def texts(svg: Path) -> str:
    return "\n".join(
        "".join(node.itertext())
        for node in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
    )


def test_a_curve_is_the_recipes_schedule_over_all_tokens() -> None:
    curves = lr_curves("8b")
    assert [curve.recipe.stage for curve in curves] == STAGES
    assert [curve.start for curve in curves] == [0, 10e12, 12e12, 14e12, 14.5e12, 14.75e12, 14.9e12]
    for curve in curves:
        recipe = resolve_pretraining(curve.recipe.stage, "8b")
        assert (curve.tokens[0], curve.tokens[-1]) == (0, recipe.tokens.value)
        assert curve.tokens == sorted(curve.tokens)
        assert curve.lr == [recipe.schedule.lr(tokens) for tokens in curve.tokens]
    assert max(curves[0].lr) == 0.02
    assert 10**9 in curves[0].tokens, "the end of the warm-up is a point"


def test_a_rate_rests_on_the_assumptions_of_the_stages_that_it_continues() -> None:
    assumed = {curve.recipe.stage: list(curve.assumed) for curve in lr_curves("8b")}
    assert assumed["phase1"] == ["phase1: schedule.warmup_tokens", "phase1: tokens_per_batch"]
    assert assumed["phase4"][: len(assumed["phase3"])] == assumed["phase3"]
    assert "phase3: schedule.lr_end" in assumed["phase4"]
    assert assumed["lce_32k"] == assumed["lce_512k"] == []
    assert {curve.recipe.stage: list(curve.assumed) for curve in lr_curves("tiny")} == assumed


def test_every_size_has_its_stages() -> None:
    assert [curve.recipe.stage for curve in lr_curves("3b")] == STAGES[:-1]
    with pytest.raises(UserError, match="unknown size '9b'"):
        lr_curves("9b")


def test_the_learning_rates_picture_names_stages_units_and_origins(tmp_path: Path) -> None:
    plot_lr("8b", tmp_path / "lr.svg")
    words = texts(tmp_path / "lr.svg")
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
    shown = mixtures("8b")
    assert list(shown) == STAGES
    for stage, mixture in shown.items():
        assert mixture == resolve_pretraining(stage, "8b").mixture
        assert stage in words
        for component, share in mixture.items():
            assert component in words
            assert f"{share.value:g}" in words.splitlines()
    assert "42 of the 42 shares" in words
    assert "date>" not in (tmp_path / "mixture.svg").read_text(), (
        "the same recipes give the same file"
    )


def test_components_are_told_apart() -> None:
    components = {component for mixture in mixtures("8b").values() for component in mixture}
    assert len(set(COMPONENT_STYLES)) == len(COMPONENT_STYLES) == len(components)


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
    monkeypatch.setattr(plots, "draw", None)
    for plot in (plot_lr, plot_mixture):
        with pytest.raises(UserError, match=r"ends in '.pdf', expected a picture's .png or .svg"):
            plot("8b", tmp_path / "picture.pdf")
    assert not list(tmp_path.iterdir())
