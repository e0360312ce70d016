"""Knowledge that a document holds: a number to look up, or one of four choices."""

import random

from data_prep.prompts.made_up.draft import DIGITS, LABELLED, LETTERS, Draft, asked


def draw(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task; an easy one asks for a digit in a document of three sentences."""
    count = 3 if is_easy else draw.randint(6, 10)
    boxes = draw.sample(LETTERS, count)
    numbers = DIGITS if is_easy else range(10, 100)
    balls = draw.sample(numbers, count)
    pairs = list(zip(boxes, balls, strict=True))
    text = " ".join(f"Box {box} holds {number} balls." for box, number in pairs)
    documents = [{"text": text}]
    box, number = draw.choice(pairs)
    if is_easy:
        question = f"How many balls are in box {box}?"
        return Draft(question, {"answers": [str(number)]}, documents)

    other = draw.choice([pair for pair in pairs if pair[0] != box])
    choices = _choices(draw, number + other[1])
    letter = "ABCD"[choices.index(str(number + other[1]))]
    listed = "\n".join(f"{'ABCD'[place]}) {text}" for place, text in enumerate(choices))
    question = f"How many balls are in the boxes {box} and {other[0]} together?\n{listed}"
    gold = {"answers": [letter], "choices": choices}
    return Draft(asked(question, LABELLED, is_easy), gold, documents)


def _choices(draw: random.Random, right: int) -> list[str]:
    """Return four numbers near the right one, which is among them, in any order."""
    others = draw.sample([step for step in range(-9, 10) if step], 3)
    choices = [str(right + step) for step in [0, *others]]
    draw.shuffle(choices)
    return choices
