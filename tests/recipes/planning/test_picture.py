"""The picture of a plan: every stage, with its bars in proportion."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from recipes.planning.options import PlanOptions
from recipes.planning.picture import COLORS, LENGTH, write_picture
from recipes.planning.stage_plan import plan_stage

SVG = "{http://www.w3.org/2000/svg}"
STAGES = ("phase1", "lce_512k", "rl_math")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    plans = [plan_stage(stage, "8b", PlanOptions(price=2)) for stage in STAGES]
    write_picture(tmp_path / "plan.svg", "Plan of <8b>", plans)
    return tmp_path / "plan.svg"


def test_every_stage_is_named_with_its_time_and_cost(picture: Path) -> None:
    texts = [node.text for node in ElementTree.parse(picture).iter(f"{SVG}text")]
    assert texts[0] == "Plan of <8b>"
    assert all(texts.count(stage) == 2 for stage in STAGES)
    assert any(text.startswith("155,660 GPU h, 152 h, cost 311,3") for text in texts)


def test_bars_are_in_proportion(picture: Path) -> None:
    plan = plan_stage("phase1", "8b", PlanOptions())
    bars = list(ElementTree.parse(picture).iter(f"{SVG}rect"))
    longest = max(float(bar.get("width", "0").rstrip("%")) for bar in bars if "fill" in bar.attrib)
    assert longest == LENGTH
    weights = [bar for bar in bars if bar.get("fill") == COLORS["gradients"]]
    share = plan.memory["gradients"].value / plan.gpu.usable_bytes
    assert float(weights[1].get("width", "")) == pytest.approx(LENGTH * share, abs=0.1)


def test_a_page_holds_the_picture(tmp_path: Path) -> None:
    plans = [plan_stage("sft", "8b", PlanOptions())]
    write_picture(tmp_path / "plan.html", "Plan", plans)
    text = (tmp_path / "plan.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "</svg>" in text
