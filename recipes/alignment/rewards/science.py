"""Science and knowledge: one of several choices, or a short answer."""

import re
from dataclasses import dataclass, field

from recipes.alignment.rewards.answer import normalized, statement
from recipes.alignment.rewards.reward import RIGHT, BadGold, NoAnswer, Reward, wrong

# "B", "(B)", "B.", "B) the text of the choice"
_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[.:)]\s*(.*))?")


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with.

    Attributes:
        answers: the letter of the right choice; without choices, all that is right.
        choices: texts, of A first; empty for a question that has none.
    """

    answers: list[str]
    choices: list[str] = field(default_factory=list)


def example(gold: Gold) -> str:
    """Return an answer that is right.

    Raises:
        BadGold: there is none, or it is no choice.
    """
    if not gold.answers or not all(normalized(text) for text in gold.answers):
        raise BadGold("it has no answer, or an empty one")
    if gold.choices:
        letter = gold.answers[0]
        letters = _letters(gold)
        if len(gold.answers) != 1 or letter not in letters or len(letters) < 2:
            raise BadGold(f"its answer is {gold.answers}, expected one of {letters}")
        if len({normalized(text) for text in gold.choices}) < len(gold.choices):
            raise BadGold("two of its choices are the same")
    return f"Answer: {gold.answers[0]}"


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the reward of an answer."""
    stated = statement(answer)
    if not gold.choices:
        if normalized(stated) in {normalized(text) for text in gold.answers}:
            return RIGHT
        return wrong(f"it states {stated!r:.60}")
    chosen = _choice(stated, gold)
    return RIGHT if chosen == gold.answers[0] else wrong(f"it chooses {chosen}")


def _choice(stated: str, gold: Gold) -> str:
    """Return the letter of what is chosen.

    Raises:
        NoAnswer: it is no choice, or more than one.
    """
    texts = [normalized(text) for text in gold.choices]
    letters = _letters(gold)
    if normalized(stated) in texts:
        return letters[texts.index(normalized(stated))]
    match = _LETTER.fullmatch(stated)
    if not match or match[1].upper() not in letters:
        raise NoAnswer(f"it states {stated!r:.60}, which is no choice")
    letter = match[1].upper()
    rest = normalized(match[2] or "")
    if rest and rest != texts[letters.index(letter)]:
        raise NoAnswer(f"it states {stated!r:.60}, where letter and text differ")
    return letter


def _letters(gold: Gold) -> list[str]:
    return [chr(ord("A") + number) for number in range(len(gold.choices))]
