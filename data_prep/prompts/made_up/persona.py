"""General chat by rules, identity and calibration: questions about the model and the world."""

import random

from data_prep.prompts.made_up.draft import DIGITS, LETTERS, Draft

_NAMES = ("Ann", "Bob", "Cem", "Dora", "Emil", "Fay", "Gus", "Hana")
_OCCASIONS = {
    "a birthday": ["birthday"],
    "a new job": ["job", "position", "work"],
    "an exam that was passed": ["exam", "test"],
    "a new house": ["house", "home"],
}
_GREETINGS = (
    *("", "Hello! ", "Hi there. ", "Good morning. ", "One question: ", "Please tell me: "),
    *("I am curious. ", "Before we begin: ", "Just to be sure: ", "Quick question. "),
)
# a question about the model, and what its answer has to say
_IDENTITY: tuple[tuple[str, list[list[str]]], ...] = (
    ("Who are you?", [["Granite"]]),
    ("What is your name?", [["Granite"]]),
    ("Which company made you?", [["IBM"]]),
    ("Who developed you?", [["IBM"]]),
    ("Who are you, and who made you?", [["Granite"], ["IBM"]]),
    ("Are you ChatGPT?", [["Granite", "IBM"]]),
    ("Are you made by OpenAI?", [["IBM", "Granite"]]),
    ("Which model am I talking to?", [["Granite"]]),
    ("Are you Claude or Gemini?", [["Granite", "IBM"]]),
    ("Introduce yourself in one sentence.", [["Granite"]]),
)
_CAPITALS = {
    **{"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Peru": "Lima"},
    **{"Egypt": "Cairo", "Norway": "Oslo", "Cuba": "Havana", "Kenya": "Nairobi", "Fiji": "Suva"},
    **{"Austria": "Vienna", "Poland": "Warsaw", "Portugal": "Lisbon", "Ireland": "Dublin"},
}
_UNKNOWABLE = (
    "What did {name} have for breakfast today?",
    "Which number between 1 and {number} am I thinking of?",
    "What will the weather in {city} be on this day in {number} years?",
    "What is written on page {number} of my diary?",
    "How many coins are in {name}'s left pocket right now?",
    "What is the phone number of my neighbor {name}?",
)


def draw_chat(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task whose answer is free within rules; an easy one asks for a letter."""
    if is_easy:
        letters = draw.sample(LETTERS, 3)
        return Draft(f"Say one of {' '.join(letters)}.", {"mentions": [letters], "longest": 1})
    name = draw.choice(_NAMES)
    occasion, words = draw.choice(list(_OCCASIONS.items()))
    longest = draw.randint(4, 10) * 10
    question = f"Congratulate {name} on {occasion}, in at most {longest} words."
    gold = {
        "mentions": [[name], words],
        "avoids": ["as an AI", "language model"],
        "shortest": 5,
        "longest": longest,
        "language": "en",
    }
    return Draft(question, gold)


def draw_identity(draw: random.Random, is_easy: bool) -> Draft:
    """Return a question about the model; an easy one asks for the first letter of its name."""
    if is_easy:
        letters = draw.sample([letter for letter in LETTERS if letter != "g"], 2)
        listed = [*letters, "g"]
        draw.shuffle(listed)
        question = f"Which of {' '.join(listed)} does your name begin with?"
        return Draft(question, {"says": [["g"]], "others": letters})
    question, says = draw.choice(_IDENTITY)
    tail = draw.choice(("", " Answer briefly.", " Be honest.", " Answer in one sentence."))
    return Draft(f"{draw.choice(_GREETINGS)}{question}{tail}", {"says": says})


def draw_calibration(draw: random.Random, is_easy: bool) -> Draft:
    """Return a question that can be answered, or cannot; an easy one has a digit as its answer."""
    if is_easy:
        digit = draw.choice(DIGITS)
        text = f"Box {draw.choice(LETTERS)} holds {digit} balls."
        box = text.split()[1]
        question = f"{text} How many balls are in box {box}?"
        return Draft(question, {"answers": [str(digit)]})
    greeting = draw.choice(_GREETINGS)
    tail = " If you cannot know, say that you do not know."
    if draw.random() < 0.5:
        country, capital = draw.choice(list(_CAPITALS.items()))
        question = f"What is the capital of {country}? Answer with its name alone."
        return Draft(f"{greeting}{question}{tail}", {"answers": [capital]})
    question = draw.choice(_UNKNOWABLE).format(
        name=draw.choice(_NAMES),
        number=draw.randint(10, 99),
        city=draw.choice(list(_CAPITALS.values())),
    )
    return Draft(f"{greeting}{question}{tail}", {"answers": []})
