"""Logical reasoning: knights and knaves, and orders; every puzzle has exactly one solution."""

import itertools
import random
from collections.abc import Callable, Sequence

from data_prep.prompts.made_up.draft import LABELLED, LETTERS, Draft, asked, words

_KINDS = {True: "knight", False: "knave"}

# number of a person -> whether it is a knight
_World = tuple[bool, ...]
# what is said, and whether it is true in a world
_Claim = tuple[str, Callable[[_World], bool]]


def draft(draw: random.Random, is_easy: bool) -> Draft:
    """Return a puzzle; an easy one is an order of three letters."""
    if is_easy or draw.random() < 0.5:
        return _order(draw, is_easy)
    return _knights(draw)


# --- Orders


def _order(draw: random.Random, is_easy: bool) -> Draft:
    count = 3 if is_easy else draw.randint(4, 6)
    names = draw.sample(LETTERS if is_easy else words("names"), count)
    # neighbors in any order leave one solution
    clues = [f"{first} is before {second}." for first, second in itertools.pairwise(names)]
    draw.shuffle(clues)
    place = draw.choice(("first", "last"))
    if is_easy:
        question = f"{' '.join(clues)} Which is {place}?"
        answer = names[0] if place == "first" else names[-1]
        return Draft(question, {"answer": answer})
    question = f"{' '.join(clues)} Name all of them in order, the first one first."
    return Draft(asked(question, LABELLED, is_easy), {"order": names})


# --- Knights and knaves


def _knights(draw: random.Random) -> Draft:
    count = draw.randint(2, 4)
    names = draw.sample(words("names"), count)
    worlds = list(itertools.product((True, False), repeat=count))
    while True:
        claims = [_claim(draw, names, speaker) for speaker in range(count)]
        solutions = [world for world in worlds if _is_consistent(world, claims)]
        if len(solutions) == 1:
            break
    said = []
    kinds = {}
    for name, (text, _), is_knight in zip(names, claims, solutions[0], strict=True):
        said.append(f'{name} says: "{text}"')
        kinds[name] = _KINDS[is_knight]
    question = (
        f"Each of {', '.join(names)} is a knight, who always tells the truth, or a knave, who "
        f"always lies. {' '.join(said)} Who is what? Answer as 'NAME: knight, NAME: knave'."
    )
    return Draft(asked(question, LABELLED, False), {"kinds": kinds})


def _claim(draw: random.Random, names: Sequence[str], speaker: int) -> _Claim:
    others = [number for number in range(len(names)) if number != speaker]
    first = draw.choice(others)
    is_knight = draw.random() < 0.5
    kind = _KINDS[is_knight]
    form = draw.randrange(3)
    if form == 0:
        return f"{names[first]} is a {kind}.", lambda world: world[first] == is_knight
    if form == 1:
        text = f"{names[first]} and I are of the same kind."
        return text, lambda world: world[first] == world[speaker]
    text = f"{names[first]} is a {kind}, or I am a knave."
    return text, lambda world: world[first] == is_knight or not world[speaker]


def _is_consistent(world: _World, claims: Sequence[_Claim]) -> bool:
    """Whether knights tell the truth and knaves lie."""
    for is_knight, (_, is_true) in zip(world, claims, strict=True):
        if is_true(world) != is_knight:
            return False
    return True
