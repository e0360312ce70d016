"""The generated pages are those that `make docs` would write, and nothing else lies among them."""

from pathlib import Path

import pytest

from recipes.planning.pages import ROOT, pages, stage_page
from recipes.registry.stages import STAGES

PAGES = pages()


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_is_current(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == PAGES[path], "run `make docs`"


def test_every_stage_has_a_page_and_no_other_is_left() -> None:
    names = {path.stem for path in (ROOT / "docs/reproduce").glob("*.md")}
    assert names == {*STAGES, "README"}


def test_a_page_has_inputs_costs_scores_and_assumptions() -> None:
    text = stage_page("lce_128k")
    assert "The checkpoint of [lce_32k](lce_32k.md)" in text
    assert "| code | 20 | opc-annealing-corpus | stack-v3-train" in text
    assert "| 8b | 1,024 gb200 | TP 2 PP 1 CP 16 DP 32 | 51 of 167 GB |" in text
    # RULER at 32K, 64K and 128K
    assert "| 30b | 85.2 | 84.6 | 76.7 |" in text
    assert "| `tokens` | 150B | not published;" in text
    # at 32K only that length is in reach
    assert "| 30b | 85.2 | - | - |" in stage_page("lce_32k")
