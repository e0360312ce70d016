"""Contamination: n-grams of words that a training text shares with evaluation texts.

As for GPT-3 (Brown et al. 2020, appendix C) and PaLM (Chowdhery et al. 2022, section 8), one shared
n-gram is enough.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import documents, shards
from data_prep.quality import ngrams
from recipes.common.errors import UserError, nearest
from recipes.common.files import atomic_write

NGRAM_WORDS = 13
# words; a shorter evaluation text is anybody's phrase and is not looked for
SHORTEST = 8
TASK = "task:"


@dataclass(frozen=True)
class Index:
    """What to look for.

    Attributes:
        suites: names.
        ngrams: words of an n-gram -> hashes (uint64, sorted, unique) and the suite of each (uint16,
            same shape).
    """

    suites: list[str]
    ngrams: dict[int, tuple[np.ndarray, np.ndarray]]

    def find(self, text: str) -> tuple[str, str] | None:
        """Return an n-gram of ``text`` that a suite has, and the suite; longest n-grams first.

        Two different n-grams share a hash with probability 5e-20, so that 10^12 n-grams of training
        text meet an index of 10^7 by chance with probability 0.5.
        """
        words = ngrams.words(text)
        hashes = ngrams.word_hashes(words)
        for length, (known, suite) in self.ngrams.items():
            candidates = ngrams.ngram_hashes(hashes, length)
            # where each would be in the sorted hashes of the suites
            positions = np.searchsorted(known, candidates)
            positions = np.minimum(positions, len(known) - 1)
            hits = np.flatnonzero(known[positions] == candidates)
            if not len(hits):
                continue

            first = hits[0]
            ngram = b" ".join(words[first : first + length])
            number = suite[positions[first]]
            return ngram.decode(), self.suites[number]
        return None

    def digest(self) -> str:
        """Return the SHA-256 of everything that decides what is found."""
        value = hashlib.sha256("\n".join(self.suites).encode())
        for length, arrays in self.ngrams.items():
            value.update(str(length).encode())
            for array in arrays:
                value.update(array.tobytes())
        return value.hexdigest()

    def save(self, file: Path) -> None:
        """Write the index to ``file``, whole or not at all."""
        arrays = {"suites": np.array(self.suites)}
        for length, (hashes, suites) in self.ngrams.items():
            arrays[f"h{length}"] = hashes
            arrays[f"s{length}"] = suites
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, file: Path) -> "Index":
        """Read what :meth:`save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            hashes = [name for name in arrays.files if name.startswith("h")]
            lengths = [int(name[1:]) for name in hashes]
            pairs = {}
            # longest n-grams first, as they are looked for in this order
            for length in sorted(lengths, reverse=True):
                pairs[length] = (
                    arrays[f"h{length}"],
                    arrays[f"s{length}"],
                )
            suites = arrays["suites"].tolist()
            return cls(suites, pairs)


def build(
    specs: tuple[str, ...],
    ngram_words: int,
) -> tuple[Index, dict[str, dict[str, int]]]:
    """Return the index of evaluation texts, and per suite how many there were and were too short.

    A text shorter than ``ngram_words`` is looked for as a whole if it has at least 8 words.

    Args:
        specs: files as :func:`documents.read` takes them, whose texts are in the field ``text``, or
            ``task:NAME`` or ``task:FILE.yaml`` for a task of lm-eval.
        ngram_words: words of an n-gram.

    Raises:
        UserError: a file or task is missing or cannot be read, or no text is long enough.
    """
    shortest = min(SHORTEST, ngram_words)
    counts: dict[str, Counter[str]] = {}
    # words of an n-gram -> an array of hashes for each text, and of the number of its suite
    hashes = defaultdict[int, list[np.ndarray]](list)
    suites = defaultdict[int, list[np.ndarray]](list)
    for suite, text in _texts(specs):
        count = counts.setdefault(suite, Counter(texts=0, too_short=0))
        count["texts"] += 1
        words = ngrams.word_hashes(ngrams.words(text))
        if len(words) < shortest:
            count["too_short"] += 1
            continue

        length = min(ngram_words, len(words))
        text_ngrams = ngrams.ngram_hashes(words, length)
        # texts of a suite follow each other, so it is the newest one
        number = len(counts) - 1
        text_suites = np.full(len(text_ngrams), number, np.uint16)
        hashes[length].append(text_ngrams)
        suites[length].append(text_suites)

    if not hashes:
        names = ", ".join(specs)
        raise UserError(
            f"{names}: no evaluation text has {shortest} words or more, expected some; "
            f"name other files or tasks"
        )
    index = {}
    for length in sorted(hashes, reverse=True):
        all_hashes = np.concatenate(hashes[length])
        all_suites = np.concatenate(suites[length])
        # an n-gram of two suites counts as the first one's
        unique, first = np.unique(all_hashes, return_index=True)
        index[length] = (unique, all_suites[first])
    by_suite = {suite: dict(count) for suite, count in counts.items()}
    return Index(list(counts), index), by_suite


def _texts(specs: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield suite and text of everything that ``specs`` name."""
    for spec in specs:
        if spec.startswith(TASK):
            yield from _task_texts(spec)
        else:
            yield from _file_texts(spec)


def _file_texts(spec: str) -> Iterator[tuple[str, str]]:
    for part in documents.split_inputs([spec], shards.SHARD_BYTES):
        for document in documents.read(part):
            yield spec, document.text


def _task_texts(spec: str) -> Iterator[tuple[str, str]]:
    """Yield the task's name, and prompt and target of each document of its test split.

    Of its validation split where it has no test split.
    """
    import datasets
    from lm_eval.tasks import TaskManager

    name = spec.removeprefix(TASK)
    is_file = name.endswith((".yaml", ".yml"))
    if is_file and not Path(name).is_file():
        raise UserError(
            f"{spec}: no such file, expected the YAML file of an lm-eval task; check the path"
        )
    datasets.disable_progress_bars()
    manager = TaskManager(include_defaults=not is_file)
    if not is_file and name not in manager.all_tasks:
        raise UserError(
            f"{spec}: lm-eval knows no such task{nearest(name, manager.all_tasks)}; "
            f"`lm-eval ls tasks` lists them"
        )

    try:
        # a group is several tasks
        tasks = manager.load(name)["tasks"]
        for task_name, task in tasks.items():
            for document in task.eval_docs:
                yield task_name, _task_text(task, document)
    # tasks and data sets raise anything
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{spec}: its data cannot be read ({type(error).__name__}: {reason}); "
            f"check the task and the network, or name a file of its texts"
        ) from error


def _task_text(task: Any, document: Any) -> str:
    """Return prompt and target as lm-eval would join them; a number is one of the choices."""
    pieces: list[str] = []
    for value in (task.doc_to_text(document), task.doc_to_target(document)):
        # a list holds several targets
        items = [value]
        if isinstance(value, list):
            items = value
        for item in items:
            if isinstance(item, int):
                choices = task.doc_to_choice(document)
                pieces.append(choices[item])
            else:
                pieces.append(str(item))
    return " ".join(pieces)
