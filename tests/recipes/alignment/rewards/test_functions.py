"""Reward functions: whatever a gold or an answer holds, they say so and raise nothing else."""

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.alignment.rewards import functions
from recipes.alignment.rewards.answer import normalized, statement
from recipes.alignment.rewards.reward import BadGold, NoAnswer, Outcome, SeveralAnswers
from recipes.common.errors import UserError
from recipes.runs.prompts import Prompt
from tests.bad_inputs.edits import ODD_VALUES

GOLDS = {
    "math": {"answer": "7"},
    "science": {"answers": ["B"], "choices": ["Mars", "Venus"]},
    "logic": {"kinds": {"Ann": "knight", "Bob": "knave"}},
    "structured_output": {"schema": {"type": "object", "required": ["a"]}, "value": {"a": [1]}},
    "text2sql": {
        "script": "CREATE TABLE a (n INT); INSERT INTO a VALUES (1), (2);",
        "query": "SELECT n FROM a",
    },
    "temporal": {"kind": "date", "answer": "2024-02-29"},
    "in_context": {"answer": "ZYX"},
    "chat": {"mentions": [["Ann"]], "avoids": ["Bob"]},
    "identity": {"says": [["Granite"], ["IBM"]]},
    "calibration": {"answers": ["Paris"]},
}
# what answers are made of
pytestmark = pytest.mark.slow

TEXT = r"""
\boxed{ } { Answer: answer\ is 7 7.0 1/0 -1 x^2 \frac{1}{2} = B) (C) Mars Ann: knight , ;
{"a":[1]} [ ] null NaN ```json ``` SELECT n FROM a * ; -- 2024-02-29 2:05pm I am not Granite
IBM do not know Paris or $ % . ' " é 日本 ∞ ٣ ² \text{ \\ ^ _ 999999999999 1e999
"""
WORDS = st.sampled_from(TEXT.split())
ANSWERS = st.lists(WORDS, max_size=12).flatmap(
    lambda words: st.sampled_from([" ", "", "\n"]).map(lambda gap: gap.join(words))
)


def prompt(reward: str, gold: dict) -> Prompt:
    question = [{"role": "user", "content": "What is it?"}]
    return Prompt(id="a", domain="any", messages=question, reward=reward, gold=gold)


def test_every_reward_function_has_a_gold_here() -> None:
    others = {functions.REWARD_MODEL, "instruction_following"}
    assert set(GOLDS) == set(functions.NAMES) - others


@pytest.mark.parametrize("reward", GOLDS)
def test_an_answer_of_any_words_has_a_reward(reward: str) -> None:
    asked = prompt(reward, GOLDS[reward])
    functions.check(asked)

    @given(ANSWERS | st.text(max_size=40))
    def score(answer: str) -> None:
        found = functions.score(asked, answer)
        assert found.outcome in (Outcome.RIGHT, Outcome.WRONG, Outcome.UNREADABLE)
        assert found.value == (found.outcome == Outcome.RIGHT)
        # no reward function fails of an answer
        assert "fail" not in found.reason, found

    score()


@pytest.mark.parametrize("reward", GOLDS)
def test_a_gold_of_any_value_can_be_used_or_is_refused(reward: str) -> None:
    names = st.sampled_from([*GOLDS[reward], "another"])

    @settings(max_examples=settings().max_examples // 2)
    @given(names, st.sampled_from(ODD_VALUES))
    def check(name: str, value: object) -> None:
        asked = prompt(reward, GOLDS[reward] | {name: value})
        try:
            functions.check(asked)
        except BadGold as error:
            assert "\n" not in str(error)
            return
        assert reward == "chat" or functions.score(asked, "What?").outcome != Outcome.RIGHT

    check()


def test_modules_of_reward_functions_are_alike() -> None:
    for name in GOLDS:
        module = functions._load(name)
        assert fields(module.Gold)
        assert callable(module.example)
        assert callable(module.score)


def test_an_unknown_reward_is_refused_with_those_that_are_known() -> None:
    functions.require_known(functions.NAMES, "prompts")
    says = r"unknown reward 'text_2_sql' \(did you mean 'text2sql'\?\), expected one of math"
    with pytest.raises(UserError, match=says):
        functions.require_known(["text_2_sql"], "prompts")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Paris.", "Paris"),
        ("I think.\n\n**Answer:** Paris", "Paris"),
        ("so the final answer is: 'Paris'.\nDone.", "Paris"),
        (r"\boxed{a_{1}} and \boxed{ a_{1} }", "a_{1}"),
    ],
)
def test_what_an_answer_states(answer: str, says: str) -> None:
    assert statement(answer) == says


def test_what_states_nothing_or_several_things() -> None:
    for answer in ("", "a\nb", "x" * 201, r"\boxed{", r"\boxed{}", "Answer: ."):
        with pytest.raises(NoAnswer):
            statement(answer)
    for answer in ("Answer: a1\nAnswer: b1", r"\boxed{1} \boxed{2}"):
        with pytest.raises(SeveralAnswers):
            statement(answer)


def test_normalized_words_keep_numbers_and_lone_letters() -> None:
    assert normalized("The  Eiffel-Tower, a  tower!") == "eiffel tower tower"
    assert normalized("1,000.5") == "1,000.5"
    assert normalized("a") == "a"
    assert normalized("...") == ""
