"""Arithmetic: expressions of whole numbers, and tasks in words."""

import random
from collections.abc import Callable

from data_prep.prompts.made_up.draft import BOXED, DIGITS, Draft, asked, words


def draft(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task; an easy one is the sum of two digits."""
    if is_easy:
        first = draw.choice(DIGITS)
        second = draw.choice(DIGITS)
        return Draft(f"What is {first} + {second}?", {"answer": str(first + second)})
    question, answer = draw.choice(_TASKS)(draw)
    return Draft(asked(question, BOXED, is_easy), {"answer": str(answer)})


def _expression(draw: random.Random) -> tuple[str, int]:
    text = str(draw.randint(2, 99))
    value = int(text)
    for _ in range(draw.randint(1, 3)):
        number = draw.randint(2, 99)
        sign = draw.choice("+-*")
        # a product of all before is written with parentheses
        if sign == "*":
            text = f"({text}) * {number}"
            value *= number
        elif sign == "+":
            text += f" + {number}"
            value += number
        else:
            text += f" - {number}"
            value -= number
    return f"Compute {text}.", value


def _remainder(draw: random.Random) -> tuple[str, int]:
    number = draw.randint(100, 99_999)
    divisor = draw.randint(3, 97)
    return f"What is the remainder of {number} divided by {divisor}?", number % divisor


def _shares(draw: random.Random) -> tuple[str, int]:
    name = draw.choice(words("names"))
    things = draw.choice(words("things"))
    friends = draw.randint(2, 12)
    each = draw.randint(3, 40)
    kept = draw.randint(1, 30)
    question = (
        f"{name} has {friends * each + kept} {things}, keeps {kept} of them, and gives the rest to "
        f"{friends} friends in equal parts. How many {things} does each friend get?"
    )
    return question, each


def _journey(draw: random.Random) -> tuple[str, int]:
    speed = draw.randint(4, 30) * 5
    hours = draw.randint(2, 9)
    rest = draw.randint(5, 60)
    question = (
        f"A train travels {hours} hours at {speed} km/h, and then another {rest} km. "
        f"How many kilometers does it travel?"
    )
    return question, speed * hours + rest


_TASKS: tuple[Callable[[random.Random], tuple[str, int]], ...] = (
    _expression,
    _remainder,
    _shares,
    _journey,
)
