"""General chat by rules: what any good answer to a prompt fulfills, however it is worded.

The rules say what is bad, not what is good: that is for a reward model (see ``reward_model.py``).
"""

from dataclasses import dataclass, field

from recipes.alignment.rewards.reward import RIGHT, BadGold, Reward, wrong
from recipes.alignment.rewards.words import has_any, repeats_itself


@dataclass(frozen=True)
class Gold:
    """What an answer has to fulfill.

    Attributes:
        mentions: groups of phrases; one of each group is in the answer.
        avoids: phrases that are not in it.
        shortest, longest: words that it has.
        language: code of ISO 639-1 as langdetect has them; empty for any.
    """

    mentions: list[list[str]] = field(default_factory=list)
    avoids: list[str] = field(default_factory=list)
    shortest: int = 1
    longest: int = 1000
    language: str = ""


def example(gold: Gold) -> str:
    """Return "", as what is right is not known.

    Raises:
        BadGold: no answer can fulfill it.
    """
    if not 0 < gold.shortest <= gold.longest:
        raise BadGold(f"it asks for {gold.shortest} to {gold.longest} words")
    if not all(gold.mentions):
        raise BadGold("a group of what it mentions is empty")
    return ""


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the reward of an answer."""
    words = len(answer.split())
    if not gold.shortest <= words <= gold.longest:
        return wrong(f"it has {words} words")
    if repeats_itself(answer):
        return wrong("it repeats itself")
    for group in gold.mentions:
        if not has_any(answer, group):
            return wrong(f"it does not mention {group[0]!r:.60}")
    if has_any(answer, gold.avoids):
        return wrong("it mentions what it should avoid")
    if gold.language and _language_of(answer) != gold.language:
        return wrong(f"its language is not {gold.language}")
    return RIGHT


def _language_of(text: str) -> str:
    # a second, once a worker, and few prompts ask for a language
    from recipes.alignment.rewards.language import language_of

    return language_of(text)
