"""Files of RULER's prompts: ``OUTPUT/TASK/LENGTH.jsonl``, and beside each ``LENGTH.json`` that describes it.

A sample depends on the seed, its task, length and index, the tokenizer and the texts, and on nothing else: not on the
other tasks and lengths, how many samples there are, or how many processes make them.
"""

import hashlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.ruler.settings import TASKS
from recipes.common.errors import UserError, nearest
from recipes.common.files import atomic_write, disk_full_as_user_error, write_text

GENERATOR = 1  # changes with what is generated
SEED = 42
_KEPT = "finished files are kept"
_CHUNK_TOKENS = 1 << 20  # that a process makes at a time
_ATTEMPTS = 8
_ENOUGH = 0.99  # of the length: not tried again
_LEAST = 0.95


@dataclass(frozen=True)
class Metadata:
    """What one file holds.

    Attributes:
        generator: version of the generator.
        tokenizer: SHA-256 (hex) of tokenizer.json.
        task: its name.
        length: tokens of prompt and answer together.
        count: samples.
        seed: that all were drawn from.
        corpus: fingerprint of the texts that the task uses.
        kind: ``published`` or ``fallback`` texts; None for a task that needs none.
        settings: ``name`` (``published``, or of smaller ones), ``budget`` (tokens of the answer) and the task's own.
        fill_min: the least share of ``length`` that a prompt and its budget take.
        fill_mean: the mean of the same.
        sha256: of the file of samples, hex.
        bytes: its size.
    """

    generator: int
    tokenizer: str
    task: str
    length: int
    count: int
    seed: int
    corpus: str
    kind: str | None
    settings: dict[str, Any]
    fill_min: float
    fill_mean: float
    sha256: str
    bytes: int


def samples_file(folder: Path, task: str, length: int) -> Path:
    """Return where the samples of ``task`` at ``length`` are."""
    return folder / task / f"{length}.jsonl"


def read_metadata(folder: Path, task: str, length: int) -> Metadata:
    """Return what ``folder`` holds of ``task`` at ``length``; the samples are held against size and checksum.

    Raises:
        UserError: there is nothing, or it is damaged.
    """
    path = samples_file(folder, task, length)
    try:
        found = Metadata(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: no such file; run `granite41 eval generate` first"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path.with_suffix('.json')}: is damaged; run `granite41 eval generate` again"
        ) from error
    if size != found.bytes:
        raise UserError(
            f"{path}: has {size:,} bytes, expected {found.bytes:,}; run `granite41 eval generate` again"
        )
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != found.sha256:
            raise UserError(
                f"{path}: was changed (SHA-256 differs); run `granite41 eval generate` again"
            )
    return found


def generate(
    tokenizer: Path,
    lengths: Sequence[int],
    samples: int,
    output: Path,
    *,
    tasks: Sequence[str] = TASKS,
    corpora: Path | None = None,
    seed: int = SEED,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Write ``samples`` prompts of each task and length; files that are there and right are kept.

    A line is an object with ``task``, ``length``, ``index``, ``input`` (the prompt, which ends with ``answer_prefix``),
    ``answer_prefix``, ``outputs`` (the right answers), ``tokens`` (of the prompt, with those that the tokenizer adds by
    itself), ``budget`` (tokens for the answer) and ``settings`` (their name). ``tokens + budget`` is never above
    ``length``, and 95 % of it or more.

    Args:
        tokenizer: folder with tokenizer.json.
        lengths: tokens of prompt and answer together.
        samples: of each task and length.
        output: folder; created.
        tasks: some of ``TASKS``.
        corpora: folder that ``corpora.fetch`` made; None for the project's own short texts.
        seed: another one gives other samples.
        workers: processes; None for one per processor.
        say: receives a line for each task and length.

    Raises:
        UserError: no such task; a length that is too short for a task; no tokenizer; damaged texts; a full disk.
    """
    from evaluation.ruler.corpora import load

    for task in tasks:
        if task not in TASKS:
            raise UserError(
                f"task {task!r}: expected one of {', '.join(TASKS)}{nearest(task, TASKS)}"
            )
    if samples < 1 or min(lengths) < 1:
        raise UserError(
            f"samples {samples}, lengths {list(lengths)}: expected numbers of 1 or more"
        )
    texts = load(corpora)
    file = tokenizer / "tokenizer.json"
    checksum = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    wanted = []
    for length in dict.fromkeys(lengths):
        for task in dict.fromkeys(tasks):
            kind, fingerprint = texts.used(task)
            known = {"generator": GENERATOR, "tokenizer": checksum, "task": task, "length": length}
            known |= {"count": samples, "seed": seed, "corpus": fingerprint, "kind": kind}
            if _is_there(output, known, say):
                say(f"{task}@{length}: {samples} samples, kept")
            else:
                wanted.append(known)
    if wanted:
        _make(tokenizer, texts, wanted, output, workers or os.cpu_count() or 1, say)


def _is_there(output: Path, known: dict[str, Any], say: Callable[[str], None]) -> bool:
    path = samples_file(output, known["task"], known["length"])
    if not path.exists() and not path.with_suffix(".json").exists():
        return False
    try:
        found = asdict(read_metadata(output, known["task"], known["length"]))
    except UserError as error:
        say(f"{str(error).rpartition(';')[0]}; made again")
        return False
    return all(found[name] == value for name, value in known.items())


def _make(
    tokenizer: Path,
    texts: Any,
    wanted: list[dict[str, Any]],
    output: Path,
    workers: int,
    say: Callable[[str], None],
) -> None:
    from evaluation.ruler.builders import Tables, choose
    from evaluation.ruler.counting import Counter

    tables = Tables(Counter(tokenizer), texts, max(known["length"] for known in wanted))
    builders = [choose(known["task"], known["length"], tables) for known in wanted]
    calls = []
    for position, known in enumerate(wanted):
        step = max(1, _CHUNK_TOKENS // known["length"])
        for start in range(0, known["count"], step):
            calls.append((position, known["seed"], range(start, min(start + step, known["count"]))))
    # a process takes seconds to start
    total = sum(known["length"] * known["count"] for known in wanted)
    with _results(
        builders, calls, min(workers, 1 + total // (4 * _CHUNK_TOKENS)), output
    ) as results:
        for known, builder in zip(wanted, builders, strict=True):
            _write(known, builder, results, output, say)


def _write(
    known: dict[str, Any],
    builder: Any,
    results: Iterator[Any],
    output: Path,
    say: Callable[[str], None],
) -> None:
    path = samples_file(output, known["task"], known["length"])
    digest, size = hashlib.sha256(), 0
    fills: list[float] = []
    with (
        atomic_write(path) as temporary,
        disk_full_as_user_error(path, _KEPT),
        temporary.open("wb") as file,
    ):
        while len(fills) < known["count"]:
            lines, totals = next(results)
            file.write(lines)
            digest.update(lines)
            size += len(lines)
            fills += [total / known["length"] for total in totals]
    # the templates stand in every sample
    texts = ("head", "tail", "answer_prefix")
    settings = {
        name: value for name, value in asdict(builder.settings).items() if name not in texts
    } | builder.details
    found = Metadata(
        **known,
        settings=settings,
        fill_min=min(fills),
        fill_mean=sum(fills) / len(fills),
        sha256=digest.hexdigest(),
        bytes=size,
    )
    with disk_full_as_user_error(path, _KEPT):
        write_text(path.with_suffix(".json"), json.dumps(asdict(found), indent=2) + "\n")
    say(
        f"{found.task}@{found.length}: {found.count} samples, {100 * found.fill_mean:.2f} % filled, "
        f"{settings['name']} settings" + (f", {found.kind} texts" if found.kind else "")
    )


@contextmanager
def _results(
    builders: list[Any], calls: list[Any], workers: int, output: Path
) -> Iterator[Iterator[Any]]:
    """Give the results of ``calls`` in their order, few of them ahead of the reader."""
    if workers == 1:
        yield (_chunk(builders, *call) for call in calls)
        return
    # fresh interpreters: a fork would copy the threads' locks of libraries that the caller has loaded
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(builders,))

    def results() -> Iterator[Any]:
        waiting: deque[Future] = deque()
        for call in calls:
            waiting.append(pool.submit(_work, *call))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield results()
    except BrokenProcessPool as error:
        raise UserError(
            f"{output}: a worker process died, perhaps for lack of memory; {_KEPT}, run again with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_builders: list[Any] = []  # of a worker process


def _start(builders: list[Any]) -> None:
    _builders.extend(builders)


def _work(position: int, seed: int, indices: range) -> tuple[bytes, list[int]]:
    return _chunk(_builders, position, seed, indices)


def _chunk(
    builders: list[Any], position: int, seed: int, indices: range
) -> tuple[bytes, list[int]]:
    """Return the lines of some samples, and the tokens of each with its budget."""
    import orjson

    made = [_sample(builders[position], seed, index) for index in indices]
    lines = b"".join(orjson.dumps(sample, option=orjson.OPT_APPEND_NEWLINE) for sample in made)
    return lines, [sample["tokens"] + sample["budget"] for sample in made]


def _sample(builder: Any, seed: int, index: int) -> dict[str, Any]:
    """Return one sample: built, counted as a whole, and built again for more or fewer tokens where that is needed."""
    import numpy as np

    digest = hashlib.sha256(f"{seed}/{builder.task}/{builder.length}/{index}".encode()).digest()
    # a little below the limit, which is worth more than a second attempt
    goal = builder.limit - builder.length // 1024
    room, best, best_tokens = goal, None, 0
    for _ in range(_ATTEMPTS):
        # RandomState's numbers are the same in every version of numpy
        draft = builder.build(np.random.RandomState(np.frombuffer(digest, "<u4")), index, room)
        tokens = builder.counter.count(draft.text)
        if best_tokens < tokens <= builder.limit:
            best, best_tokens = draft, tokens
        if _ENOUGH * builder.length - builder.settings.budget <= tokens <= builder.limit:
            break
        room += goal - tokens
    if best is None or best_tokens + builder.settings.budget < _LEAST * builder.length:
        raise UserError(
            f"{builder.task}: sample {index} of {builder.length:,} tokens cannot be made with this tokenizer "
            f"({best_tokens + builder.settings.budget:,} reached); ask for a greater length"
        )
    return {
        "task": builder.task,
        "length": builder.length,
        "index": index,
        "input": best.text,
        "answer_prefix": best.answer_prefix,
        "outputs": best.outputs,
        "tokens": best_tokens,
        "budget": builder.settings.budget,
        "settings": builder.settings.name,
    }
