"""Generators of prompts: the same for a seed, all different, and their gold answers right."""

import ast
import itertools
import operator
import re
from typing import Any

import pytest

from data_prep.conversations.made_up.generation import held_out_records
from data_prep.prompts.made_up.generators import GENERATORS, make_up
from data_prep.prompts.tiny import SOURCES
from recipes.alignment.rewards.functions import NAMES, REWARD_MODEL
from recipes.common.errors import UserError
from recipes.registry.stages import STAGES
from recipes.runs.prompts import Prompt
from recipes.spec.rl import RlStage

LEVELS = [False, True]
OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def question(prompt: Prompt) -> str:
    return str(prompt.messages[0]["content"])


@pytest.mark.parametrize("is_easy", LEVELS)
@pytest.mark.parametrize("name", GENERATORS)
def test_a_seed_makes_up_the_same_prompts_and_no_two_alike(name: str, is_easy: bool) -> None:
    prompts = list(make_up(name, 40, 7, is_easy))
    assert prompts == list(make_up(name, 40, 7, is_easy))
    assert prompts[:20] == list(make_up(name, 20, 7, is_easy))
    assert prompts != list(make_up(name, 40, 8, is_easy))
    assert len({(question(prompt), str(prompt.documents)) for prompt in prompts}) == 40
    assert len({prompt.id for prompt in prompts}) == 40


def test_more_prompts_than_there_are_is_refused() -> None:
    says = r"arithmetic=101: there are no more than \d\d different"
    with pytest.raises(UserError, match=says):
        list(make_up("arithmetic", 101, 7, is_easy=True))


def test_nothing_is_made_up_that_the_suite_of_tiny_asks() -> None:
    held_out = [record["messages"][0]["content"] for record in held_out_records()]
    sums = {question(prompt) for prompt in make_up("arithmetic", 60, 7, is_easy=True)}
    assert sums.isdisjoint(held_out)


def test_every_domain_of_a_stage_has_a_generator_and_a_reward() -> None:
    domains = {generator.domain for generator in GENERATORS.values()}
    for stage in STAGES.values():
        if isinstance(stage, RlStage):
            assert set(stage.domains.value) <= domains
            # size tiny has prompts of each stage, of its domains alone
            made_up = {GENERATORS[name].domain for name in SOURCES[stage.name]}
            assert made_up <= set(stage.domains.value)
    rewards = {generator.reward for generator in GENERATORS.values()}
    assert rewards == set(NAMES) - {REWARD_MODEL}


def test_easy_questions_are_those_of_the_made_up_conversations() -> None:
    (sum_,) = make_up("arithmetic", 1, 7, is_easy=True)
    assert re.fullmatch(r"What is \d \+ \d\?", question(sum_))
    (look_up,) = make_up("look_up", 1, 7, is_easy=True)
    assert re.fullmatch(r"How many balls are in box [a-j]\?", question(look_up))
    assert re.fullmatch(r"(Box [a-j] holds \d balls\. ?){3}", look_up.documents[0]["text"])


def evaluate(text: str) -> int:
    def value(node: Any) -> int:
        if isinstance(node, ast.Constant):
            return int(node.value)
        return OPERATORS[type(node.op)](value(node.left), value(node.right))

    return value(ast.parse(text, mode="eval").body)


def test_expressions_have_their_values() -> None:
    found = 0
    for prompt in make_up("arithmetic", 200, 7, is_easy=False):
        match = re.match(r"Compute (.*)\.", question(prompt))
        if match:
            assert evaluate(match[1]) == int(prompt.gold["answer"])
            found += 1
    assert found > 20


def test_orders_follow_from_their_clues() -> None:
    found = 0
    for prompt in make_up("logic", 100, 7, is_easy=False):
        clues = re.findall(r"(\w+) is before (\w+)\.", question(prompt))
        if not clues:
            continue
        found += 1
        names = sorted({name for clue in clues for name in clue})
        solutions = []
        for order in itertools.permutations(names):
            if all(order.index(first) < order.index(second) for first, second in clues):
                solutions.append(list(order))
        assert solutions == [prompt.gold["order"]]
    assert found > 20


def is_true(said: str, speaker: str, world: dict[str, bool]) -> bool:
    """Read a claim of a puzzle, as a reader of its words would."""
    if match := re.fullmatch(r"(\w+) is a (knight|knave)\.", said):
        return world[match[1]] == (match[2] == "knight")
    if match := re.fullmatch(r"(\w+) and I are of the same kind\.", said):
        return world[match[1]] == world[speaker]
    match = re.fullmatch(r"(\w+) is a (knight|knave), or I am a knave\.", said)
    assert match
    return world[match[1]] == (match[2] == "knight") or not world[speaker]


def test_knights_and_knaves_have_one_solution() -> None:
    found = 0
    for prompt in make_up("logic", 100, 7, is_easy=False):
        claims = re.findall(r'(\w+) says: "([^"]*)"', question(prompt))
        if not claims:
            continue
        found += 1
        names = [name for name, _ in claims]
        solutions = []
        for kinds in itertools.product([True, False], repeat=len(names)):
            world = dict(zip(names, kinds, strict=True))
            if all(is_true(said, name, world) == world[name] for name, said in claims):
                solutions.append(world)
        expected = {name: kind == "knight" for name, kind in prompt.gold["kinds"].items()}
        assert solutions == [expected]
    assert found > 20
