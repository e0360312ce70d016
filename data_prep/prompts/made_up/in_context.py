"""In-context learning: a rule that nothing names, from examples, and one input more."""

import itertools
import random
from collections.abc import Callable, Sequence

from data_prep.prompts.made_up.draft import LETTERS, Draft, words

_VOWELS = "aeiou"

_Rule = Callable[[list[str]], str]

_EASY: tuple[_Rule, ...] = (
    lambda letters: letters[0],
    lambda letters: letters[1],
    lambda letters: letters[-1],
)
_RULES: tuple[_Rule, ...] = (
    lambda words: " ".join(words).upper(),
    lambda words: words[-1],
    lambda words: words[0][::-1],
    lambda words: "-".join(words),
    lambda words: " ".join(reversed(words)),
    lambda words: "".join(word[0] for word in words),
    lambda words: " ".join(word[1:] + word[0] for word in words),
    lambda words: "".join(letter for letter in words[0] if letter not in _VOWELS),
    lambda words: words[1].title(),
    lambda words: sorted(words)[0],
)


def draft(draw: random.Random, is_easy: bool) -> Draft:
    """Return examples and an input; an easy rule takes one of three letters."""
    rules = _EASY if is_easy else _RULES
    rule = draw.choice(rules)
    count = 2 if is_easy else draw.randint(3, 5)
    known = LETTERS if is_easy else list(itertools.chain(*words("words")))
    while True:
        *shown, last = [draw.sample(known, 3) for _ in range(count + 1)]
        if _is_clear(rule, rules, shown, last):
            break
    lines = []
    for example in shown:
        lines.append(f"Input: {' '.join(example)}")
        lines.append(f"Output: {rule(example)}")
    lines.append(f"Input: {' '.join(last)}")
    lines.append("Output:")
    return Draft("\n".join(lines), {"answer": rule(last)})


def _is_clear(rule: _Rule, rules: Sequence[_Rule], shown: list[list[str]], last: list[str]) -> bool:
    """Whether all rules that fit the examples have the same output at the end."""
    for other in rules:
        fits = all(other(words) == rule(words) for words in shown)
        if fits and other(last) != rule(last):
            return False
    return True
