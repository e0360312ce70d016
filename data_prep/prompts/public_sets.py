"""Public data sets as prompts: how a row of each becomes a question and its gold answer."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data_prep import documents
from data_prep.conversations.conversation import without_nulls
from data_prep.prompts.made_up.draft import BOXED, LABELLED, Draft
from data_prep.records import BadRow
from recipes.alignment.rewards.answer import boxed
from recipes.alignment.rewards.reward import NoAnswer
from recipes.common.errors import UserError
from recipes.runs.prompts import Prompt

FILE = Path(__file__).with_name("public_sets.yaml")
_PIECE_BYTES = 1 << 30
_UNKNOWN_ANSWER = "If the text does not say it, say that you do not know."

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PublicSet:
    """An entry of ``public_sets.yaml``, whose head explains the keys."""

    inputs: list[str]
    license: str
    domain: str
    reward: str
    convert: str
    confirmed: str
    note: str = ""


@cache
def public_sets() -> dict[str, PublicSet]:
    """Return name -> set."""
    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: PublicSet(**entry) for name, entry in entries.items()}


def read_public_set(name: str) -> Iterator[Prompt | BadRow]:
    """Yield the prompts of a set, and why a row is none.

    Raises:
        UserError: the set cannot be reached, or has other columns.
    """
    chosen = public_sets()[name]
    convert = _CONVERTERS[chosen.convert]
    number = 0
    for part in documents.split_inputs(chosen.inputs, _PIECE_BYTES):
        # whatever columns there are: the converter names the one that it misses
        for record, row in documents.read_records(part, "", ()):
            number += 1
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                draft = convert(without_nulls(row))
            except KeyError as error:
                raise UserError(
                    f"{documents.where(part, record)}: has no column {error}, expected it in "
                    f"{name}; correct {FILE.name}, or give the prompts by a file"
                ) from error
            except (ValueError, TypeError, LookupError, AttributeError, NoAnswer) as error:
                yield BadRow(f"its answer cannot be found ({error})")
                continue
            yield Prompt(
                id=f"{name}-{number}",
                domain=chosen.domain,
                messages=[{"role": "user", "content": draft.question}],
                reward=chosen.reward,
                gold=draft.gold,
                documents=draft.documents,
                source=name,
            )


def _gsm8k(row: Row) -> Draft:
    _, _, answer = row["answer"].rpartition("####")
    return Draft(f"{row['question']}\n{BOXED}", {"answer": answer.strip()})


def _hendrycks_math(row: Row) -> Draft:
    return Draft(f"{row['problem']}\n{BOXED}", {"answer": boxed(row["solution"])[-1]})


def _big_math(row: Row) -> Draft:
    return Draft(f"{row['problem']}\n{BOXED}", {"answer": row["answer"].strip()})


def _arc(row: Row) -> Draft:
    texts = list(row["choices"]["text"])
    # some label their choices 1 to 4
    place = list(row["choices"]["label"]).index(row["answerKey"])
    return _choice(row["question"], texts, place)


def _sciq(row: Row) -> Draft:
    texts = [row["correct_answer"], *(row[f"distractor{number}"] for number in (1, 2, 3))]
    right = texts[0]
    # in an order that says nothing of which is right
    texts.sort()
    return _choice(row["question"], texts, texts.index(right))


def _choice(question: str, texts: list[str], right: int) -> Draft:
    letters = [chr(ord("A") + number) for number in range(len(texts))]
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(letters, texts, strict=True))
    gold = {"answers": [letters[right]], "choices": texts}
    return Draft(f"{question}\n{listed}\n{LABELLED}", gold)


def _knights_and_knaves(row: Row) -> Draft:
    words = row.get("knight_knave") or {}
    knight = words.get("knight", "knight")
    knave = words.get("knave", "knave")
    kinds = {}
    for name, is_knight in zip(row["names"], row["solution"], strict=True):
        kinds[name] = knight if is_knight else knave
    how = f"Answer as 'NAME: {knight}, NAME: {knave}'."
    return Draft(f"{row['quiz']}\n{how} {LABELLED}", {"kinds": kinds})


def _ifeval_like(row: Row) -> Draft:
    names = row["instruction_id_list"]
    arguments = row["kwargs"]
    if isinstance(names, str):
        names = json.loads(names)
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return Draft(row["prompt"], {"instructions": names, "arguments": arguments})


def _synthetic_text_to_sql(row: Row) -> Draft:
    script = row["sql_context"]
    how = "Answer with one SQLite query and nothing else."
    gold = {"script": script, "query": row["sql"]}
    return Draft(f"{script}\n{row['sql_prompt']} {how}", gold)


def _squad_v2(row: Row) -> Draft:
    question = f"{row['question']} Answer in a few words. {_UNKNOWN_ANSWER}"
    answers = list(dict.fromkeys(row["answers"]["text"]))
    return Draft(question, {"answers": answers}, [{"text": row["context"]}])


def _aya(row: Row) -> Draft:
    return Draft(row["inputs"], {})


_CONVERTERS: dict[str, Callable[[Row], Draft]] = {
    "gsm8k": _gsm8k,
    "hendrycks_math": _hendrycks_math,
    "big_math": _big_math,
    "arc": _arc,
    "sciq": _sciq,
    "knights_and_knaves": _knights_and_knaves,
    "ifeval_like": _ifeval_like,
    "synthetic_text_to_sql": _synthetic_text_to_sql,
    "squad_v2": _squad_v2,
    "aya": _aya,
}
