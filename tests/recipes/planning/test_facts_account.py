"""Every published fact has a use, a check, or a reason why it is only quoted."""

from pathlib import Path

import pytest
import yaml

from recipes.planning.facts_account import (
    FACTS,
    STATUSES,
    account,
    fact_leaves,
    read_account,
    recipe_uses,
    stated_prefix,
)
from recipes.registry.stages import PRETRAIN_STAGES

ROOT = Path(__file__).parents[3]
CONTENT = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
STATED = read_account()


def test_every_fact_is_accounted_for() -> None:
    found = account()
    assert [use.path for use in found] == [path for path, _ in fact_leaves(CONTENT)]
    counts = {status: sum(use.status == status for use in found) for status in STATUSES}
    assert counts["recipe"] > 100
    assert counts["quoted"] < 15, counts


def test_every_account_has_a_fact_that_needs_it() -> None:
    needed = {stated_prefix(use.path, STATED) for use in account() if use.status != "recipe"}
    assert set(STATED) == needed


@pytest.mark.parametrize("prefix", STATED)
def test_an_account_names_a_file_or_a_reason(prefix: str) -> None:
    entry = dict(STATED[prefix])
    entry.pop("note", None)
    ((status, text),) = entry.items()
    assert status in ("used", "checked", "quoted")
    if status == "quoted":
        assert len(text.split()) > 3
    else:
        assert (ROOT / text).is_file()
        assert text.startswith("tests/") == (status == "checked")


def test_what_recipes_name_are_facts() -> None:
    paths = [path for path, _ in fact_leaves(CONTENT)]
    for fact in recipe_uses():
        # a derived value's reason may start with another word and a colon
        if fact.partition(".")[0] in CONTENT:
            assert any(path == fact or path.startswith(f"{fact}.") for path in paths), fact


def test_no_key_of_the_facts_is_a_rest_of_a_text() -> None:
    """A comma in a text that is not quoted starts another key, which has no value."""
    empty = [path for path, value in fact_leaves(CONTENT) if value is None]
    assert empty == [path for path in empty if path.endswith(("setting", "tokens_per_stage"))]


def test_the_published_total_is_that_of_the_stages() -> None:
    tokens = sum(stage.tokens.value for stage in PRETRAIN_STAGES.values())
    assert tokens == CONTENT["pretraining"]["total_tokens"]
