"""Knowledge that a document holds: a number to look up, or one of four choices."""

import random

from data_prep.prompts.made_up.draft import DIGITS, LABELLED, LETTERS, Draft, asked

_CHOICES = "ABCD"


def draft(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task; an easy one asks for a digit in a document of three sentences."""
    count = 3 if is_easy else draw.randint(6, 10)
    numbers = DIGITS if is_easy else range(10, 100)
    boxes = draw.sample(LETTERS, count)
    balls = dict(zip(boxes, draw.sample(numbers, count), strict=True))
    text = " ".join(f"Box {box} holds {number} balls." for box, number in balls.items())
    documents = [{"text": text}]

    box, other = draw.sample(boxes, 2)
    if is_easy:
        question = f"How many balls are in box {box}?"
        return Draft(question, {"answers": [str(balls[box])]}, documents)

    together = balls[box] + balls[other]
    choices = _choices(draw, together)
    gold = {
        "answers": [_CHOICES[choices.index(str(together))]],
        "choices": choices,
    }
    lines = [f"How many balls are in the boxes {box} and {other} together?"]
    for letter, choice in zip(_CHOICES, choices, strict=True):
        lines.append(f"{letter}) {choice}")
    return Draft(asked("\n".join(lines), LABELLED, is_easy), gold, documents)


def _choices(draw: random.Random, right: int) -> list[str]:
    """Return four numbers near the right one, which is among them, in any order."""
    others = draw.sample([step for step in range(-9, 10) if step], 3)
    choices = [str(right + step) for step in [0, *others]]
    draw.shuffle(choices)
    return choices
