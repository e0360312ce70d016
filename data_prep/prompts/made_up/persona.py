"""General chat by rules, identity and calibration: questions about the model and the world."""

import random

from data_prep.prompts.made_up.draft import DIGITS, LETTERS, Draft, words


def draft_chat(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task whose answer is free within rules; an easy one asks for a letter."""
    if is_easy:
        letters = draw.sample(LETTERS, 3)
        return Draft(f"Say one of {' '.join(letters)}.", {"mentions": [letters], "longest": 1})
    name = draw.choice(words("names"))
    occasion, mentioned = draw.choice(list(words("occasions").items()))
    longest = draw.randint(4, 10) * 10
    question = f"Congratulate {name} on {occasion}, in at most {longest} words."
    gold = {
        "mentions": [[name], mentioned],
        "avoids": ["as an AI", "language model"],
        "shortest": 5,
        "longest": longest,
    }
    return Draft(question, gold)


def draft_identity(draw: random.Random, is_easy: bool) -> Draft:
    """Return a question about the model; an easy one asks for the first letter of its name."""
    if is_easy:
        letters = draw.sample([letter for letter in LETTERS if letter != "g"], 2)
        listed = [*letters, "g"]
        draw.shuffle(listed)
        question = f"Which of {' '.join(listed)} does your name begin with?"
        return Draft(question, {"says": [["g"]], "others": letters})
    question, says = draw.choice(list(words("identity").items()))
    opening = draw.choice(words("openings"))
    closing = draw.choice(words("closings"))
    return Draft(f"{opening}{question}{closing}", {"says": says})


def draft_calibration(draw: random.Random, is_easy: bool) -> Draft:
    """Return a question that can be answered, or cannot; an easy one has a digit as its answer."""
    if is_easy:
        digit = draw.choice(DIGITS)
        text = f"Box {draw.choice(LETTERS)} holds {digit} balls."
        box = text.split()[1]
        question = f"{text} How many balls are in box {box}?"
        return Draft(question, {"answers": [str(digit)]})
    opening = draw.choice(words("openings"))
    closing = " If you cannot know, say that you do not know."
    if draw.random() < 0.5:
        country, capital = draw.choice(list(words("capitals").items()))
        question = f"What is the capital of {country}? Answer with its name alone."
        return Draft(f"{opening}{question}{closing}", {"answers": [capital]})
    question = draw.choice(words("unknowable")).format(
        name=draw.choice(words("names")),
        number=draw.randint(10, 99),
        city=draw.choice(list(words("capitals").values())),
    )
    return Draft(f"{opening}{question}{closing}", {"answers": []})
