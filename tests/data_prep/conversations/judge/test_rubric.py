"""Scores become buckets by weights and thresholds; a fault rejects whatever the score."""

from pathlib import Path

import pytest
import yaml

from data_prep.conversations.judge.rubric import SHIPPED, load_rubric
from data_prep.conversations.judge.verdict import DIMENSIONS, FAULTS, UNGROUNDED, Verdict
from recipes.common.errors import UserError

NO_FAULT = dict.fromkeys(FAULTS, False)


def same(score: int, **faults: bool) -> Verdict:
    return Verdict(dict.fromkeys(DIMENSIONS, score), NO_FAULT | faults, "")


@pytest.mark.parametrize(
    ("score", "bucket"),
    [
        (10, "accept"),
        (8, "accept"),
        (7, "borderline"),
        (6, "borderline"),
        (5, "reject"),
        (1, "reject"),
    ],
)
def test_buckets_of_equal_scores(score: int, bucket: str) -> None:
    assert load_rubric().bucket(same(score)) == bucket


@pytest.mark.parametrize("fault", [*FAULTS, *UNGROUNDED])
def test_a_fault_rejects_a_ten(fault: str) -> None:
    assert load_rubric().bucket(same(10, **{fault: True})) == "reject"


def test_a_score_is_the_weighted_mean() -> None:
    verdict = Verdict(dict.fromkeys(DIMENSIONS, 10) | {"correctness": 1}, NO_FAULT, "")
    assert load_rubric().score(verdict) == pytest.approx(10 - 0.30 * 9)


def shipped(**parts: object) -> str:
    content = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    for path, value in parts.items():
        *parents, last = path.split("__")
        place = content
        for key in parents:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return yaml.safe_dump(content)


def test_a_rubric_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(shipped(thresholds__accept__value=9.5))
    assert load_rubric(file).bucket(same(9)) == "borderline"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[", "is not a readable YAML file"),
        ("a", "holds no dimensions"),
        ("{}", "has no key 'dimensions'"),
        (shipped(dimensions__naturalness=None), "dimension naturalness is missing"),
        (
            shipped(dimensions__tone={"weight": 0.0, "origin": "assumed", "why": "", "asks": ""}),
            "unknown dimension 'tone'",
        ),
        (shipped(dimensions__correctness__weight=0.5), "the weights add up to 1.2"),
        (shipped(dimensions__correctness__weight=-0.3), "weight -0.3: expected 0 or more"),
        (shipped(dimensions__correctness__weight="heavy"), "holds 'heavy'"),
        (shipped(dimensions__correctness__weight=float("nan")), "weight nan"),
        (shipped(dimensions__correctness__origin="guessed"), "origin 'guessed'"),
        (shipped(thresholds__borderline__value=9), "expected 1 <= borderline <= accept <= 10"),
        (shipped(thresholds__accept__value=float("nan")), "expected 1 <= borderline"),
        (shipped(sampling__max_tokens=0), "max_tokens of at least 1"),
    ],
)
def test_a_rubric_that_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_rubric(file)
