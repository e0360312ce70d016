"""What an answer states at its end, for all domains alike, and what is no answer in any of them."""

import re
import unicodedata
from collections.abc import Iterable

from recipes.alignment.rewards.reward import NoAnswer, Reward, SeveralAnswers, unreadable, wrong
from recipes.runs.prompts import Prompt

# characters: four for each of 8,192 tokens is half of it
LONGEST = 65_536
# characters of an answer that is nothing but its statement
LONGEST_STATEMENT = 200

# Granite's turns; whoever spells them out answers in another's name
_ROLE_TOKEN = re.compile(
    r"<\|(start_of_role|end_of_role|end_of_text|im_start|im_end|assistant|user|system|tool)\|>"
    r"|</?tool_(call|response)>"
)
_LABEL = re.compile(
    r"(?:\bthe\s+)?(?:\bfinal\s+)?\banswer(?:\s*:|\s+is\b\s*:?)\s*(.+)", re.IGNORECASE
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
# around a statement, and not of it
_DECORATION = " \t*_`\"'“”‘’"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# a mark between two digits belongs to a number
_MARKS = re.compile(r"(?<!\d)[^\w\s]|[^\w\s](?!\d)")


def refuse(answer: str, question: str) -> Reward | None:
    """Return the reward of what is no answer to anything, or None.

    Args:
        answer: the policy's text without the token that ends it; other special tokens spelled out.
        question: the last message that it answers.
    """
    if not answer.strip():
        return unreadable("it is empty")
    if len(answer) > LONGEST:
        return unreadable(f"it has {len(answer):,} characters, of {LONGEST:,} that are read")
    if "\x00" in answer or any(0xD800 <= ord(character) <= 0xDFFF for character in answer):
        return unreadable("it holds a character that is none")
    token = role_token(answer)
    if token:
        return wrong(f"it spells out {token}")
    if answer.split() == question.split():
        return wrong("it is the prompt")
    return None


def role_token(text: str) -> str:
    """Return a token of turns or calls that a text spells out, or ""."""
    token = _ROLE_TOKEN.search(text)
    return token[0] if token else ""


def question_of(prompt: Prompt) -> str:
    """Return the last message of a prompt."""
    return str(prompt.messages[-1].get("content") or "")


def statement(answer: str) -> str:
    r"""Return what an answer states: in ``\boxed{}``, after "answer is" or "Answer:", or alone.

    Raises:
        NoAnswer: it has neither, and more than one line.
        SeveralAnswers: it states one thing here and another there.
    """
    boxes = boxed(answer)
    if boxes:
        return _only(boxes)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    labelled = [match[1] for line in lines if (match := _LABEL.search(line))]
    if labelled:
        return _only(labelled)
    if len(lines) != 1 or len(lines[0]) > LONGEST_STATEMENT:
        raise NoAnswer("it has no box, no line with 'Answer:', and more than one line")
    return _stripped(lines[0])


def boxed(answer: str) -> list[str]:
    r"""Return what is in each ``\boxed{}``.

    Raises:
        NoAnswer: a box has no end.
    """
    contents = []
    position = 0
    while match := _BOX.search(answer, position):
        end = _closing_brace(answer, match.end())
        contents.append(answer[match.end() : end])
        position = end
    return contents


def _closing_brace(text: str, start: int) -> int:
    """Return where the brace that was opened before ``start`` is closed."""
    depth = 1
    for position in range(start, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
        if depth == 0:
            return position
    raise NoAnswer("a box has no end")


def _only(statements: Iterable[str]) -> str:
    found = {_stripped(text) for text in statements}
    if len({normalized(text) or text for text in found}) > 1:
        raise SeveralAnswers(f"it states {len(found)} different answers")
    text = min(found)
    if not text:
        raise NoAnswer("what it states is empty")
    return text


def _stripped(text: str) -> str:
    stripped = text.strip(_DECORATION)
    # the end of a sentence, unless of a number such as "2."
    if stripped.endswith("."):
        stripped = stripped[:-1].rstrip(_DECORATION)
    return stripped


def normalized(text: str) -> str:
    """Return words for a comparison: without case, articles and marks, but those in numbers."""
    words = unicodedata.normalize("NFKC", text).casefold()
    words = " ".join(_MARKS.sub(" ", words).split())
    # of the letter "a" something is left
    return " ".join(_ARTICLES.sub(" ", words).split()) or words
