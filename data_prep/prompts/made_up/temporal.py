"""Temporal reasoning: dates, days of the week, times of day and durations."""

import random
from collections.abc import Callable
from datetime import date, datetime, timedelta

from data_prep.prompts.made_up.draft import DIGITS, LABELLED, Draft, asked

_EPOCH = date(1990, 1, 1)
_DAYS = 20_000


def draft(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task; an easy one counts days of one digit."""
    if is_easy:
        first, last = sorted(draw.sample(DIGITS, 2))
        days = last - first
        if draw.random() < 0.5:
            question = f"How many days are from day {first} to day {last}?"
            return Draft(question, {"kind": "count", "answer": str(days)})
        question = f"Which day is {days} days after day {first}?"
        return Draft(question, {"kind": "count", "answer": str(last)})
    kind, question, answer = draw.choice(_TASKS)(draw)
    return Draft(asked(question, LABELLED, is_easy), {"kind": kind, "answer": answer})


def _any_date(draw: random.Random) -> date:
    return _EPOCH + timedelta(days=draw.randrange(_DAYS))


def _date_after(draw: random.Random) -> tuple[str, str, str]:
    start = _any_date(draw)
    days = draw.randint(2, 400)
    question = f"Which date is {days} days after {start:%B} {start.day}, {start.year}?"
    return "date", f"{question} Write it as YYYY-MM-DD.", str(start + timedelta(days=days))


def _weekday(draw: random.Random) -> tuple[str, str, str]:
    start = _any_date(draw)
    days = draw.randint(2, 100)
    question = (
        f"{start:%B} {start.day}, {start.year} is a {start:%A}. Which day of the week is {days} "
        f"days later?"
    )
    return "weekday", question, f"{start + timedelta(days=days):%A}"


def _arrival(draw: random.Random) -> tuple[str, str, str]:
    start = datetime(2024, 1, 1, draw.randrange(24), draw.randrange(60))
    minutes = draw.randint(20, 900)
    question = (
        f"A train departs at {start:%H:%M} and travels for {minutes} minutes. "
        f"At what time of the day does it arrive, as HH:MM?"
    )
    return "time", question, f"{start + timedelta(minutes=minutes):%H:%M}"


def _duration(draw: random.Random) -> tuple[str, str, str]:
    start = datetime(2024, 1, 1, draw.randrange(12), draw.randrange(60))
    minutes = draw.randint(20, 700)
    end = start + timedelta(minutes=minutes)
    question = f"A film begins at {start:%H:%M} and ends at {end:%H:%M} on the same day. "
    return "duration", f"{question}How long is it, in minutes?", f"{minutes} minutes"


_TASKS: tuple[Callable[[random.Random], tuple[str, str, str]], ...] = (
    _date_after,
    _weekday,
    _arrival,
    _duration,
)
