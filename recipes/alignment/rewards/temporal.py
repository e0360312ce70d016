"""Temporal reasoning: a date, a day of the week, a time of day or a duration, however written."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, time

from recipes.alignment.rewards.answer import normalized, statement
from recipes.alignment.rewards.reward import RIGHT, BadGold, NoAnswer, Reward, wrong

_MONTHS = [
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
]
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_MONTH_FIRST = re.compile(r"(?:[a-z]+day,?\s+)?([a-z]+)\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})")
_DAY_FIRST = re.compile(
    r"(?:[a-z]+day,?\s+)?(\d{1,2})(?:st|nd|rd|th)?(?:\s+of)?\s+([a-z]+)\.?,?\s+(\d{4})"
)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*([ap])?\.?(?:m\.?)?")
_AMOUNT = re.compile(r"(\d+)\s*(minute|min|hour|h|day|week|month|year)s?")
_COUNT = re.compile(r"(-?\d{1,9})(?:\s+[a-z]+)?")
# of each unit, in minutes or in months
_MINUTES = {"minute": 1, "min": 1, "hour": 60, "h": 60, "day": 1440, "week": 10080}
_IN_MONTHS = {"month": 1, "year": 12}


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with.

    Attributes:
        kind: ``date``, ``weekday``, ``time``, ``duration``, or ``count`` where the question names
            the unit.
        answer: such as ``2024-02-29``, ``Thursday``, ``14:05``, ``2 hours 5 minutes``, ``7``.
    """

    kind: str
    answer: str


def example(gold: Gold) -> str:
    """Return an answer that is right.

    Raises:
        BadGold: it is of no kind, or cannot be read as what it says.
    """
    if gold.kind not in _READERS:
        raise BadGold(f"its kind is {gold.kind!r:.60}, expected one of {', '.join(_READERS)}")
    try:
        _READERS[gold.kind](gold.answer.casefold())
    except NoAnswer as error:
        raise BadGold(f"its answer {gold.answer!r:.60} is no {gold.kind}") from error
    return f"Answer: {gold.answer}"


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the reward of an answer."""
    read = _READERS[gold.kind]
    stated = statement(answer)
    if read(stated.casefold()) == read(gold.answer.casefold()):
        return RIGHT
    return wrong(f"it states {stated!r:.60}")


def _read_date(text: str) -> date:
    if match := _ISO.fullmatch(text):
        year, month, day = match.groups()
        number = int(month)
    elif match := _MONTH_FIRST.fullmatch(text):
        month, day, year = match.groups()
        number = _month_number(month)
    elif match := _DAY_FIRST.fullmatch(text):
        day, month, year = match.groups()
        number = _month_number(month)
    else:
        raise NoAnswer(f"it states {text!r:.60}, which is no date with a year")
    try:
        return date(int(year), number, int(day))
    except ValueError as error:
        raise NoAnswer(f"it states {text!r:.60}, which is no day") from error


def _month_number(name: str) -> int:
    for number, month in enumerate(_MONTHS, 1):
        if month == name or (len(name) >= 3 and month.startswith(name)):
            return number
    raise NoAnswer(f"it states {name!r:.60}, which is no month")


def _read_weekday(text: str) -> str:
    day = normalized(text)
    if day not in _DAYS:
        raise NoAnswer(f"it states {text!r:.60}, which is no day of the week")
    return day


def _read_time(text: str) -> time:
    match = _CLOCK.fullmatch(text.strip())
    if not match or not (match[2] or match[3]):
        raise NoAnswer(f"it states {text!r:.60}, which is no time of day")
    hour = int(match[1])
    if match[3]:
        if not 1 <= hour <= 12:
            raise NoAnswer(f"it states {text!r:.60}, which is no time of day")
        hour = hour % 12 + 12 * (match[3] == "p")
    try:
        return time(hour, int(match[2] or 0))
    except ValueError as error:
        raise NoAnswer(f"it states {text!r:.60}, which is no time of day") from error


def _read_duration(text: str) -> tuple[int, int]:
    """Return months, and minutes besides."""
    if _AMOUNT.sub("", text).replace("and", "").strip(" ,"):
        raise NoAnswer(f"it states {text!r:.60}, expected as '2 hours 5 minutes'")
    amounts = _AMOUNT.findall(text)
    if not amounts:
        raise NoAnswer(f"it states {text!r:.60}, which is no duration")
    months = 0
    minutes = 0
    for amount, unit in amounts:
        months += int(amount) * _IN_MONTHS.get(unit, 0)
        minutes += int(amount) * _MINUTES.get(unit, 0)
    return months, minutes


def _read_count(text: str) -> int:
    match = _COUNT.fullmatch(text.strip())
    if not match:
        raise NoAnswer(f"it states {text!r:.60}, which is no whole number")
    return int(match[1])


_READERS: dict[str, Callable[[str], object]] = {
    "date": _read_date,
    "weekday": _read_weekday,
    "time": _read_time,
    "duration": _read_duration,
    "count": _read_count,
}
