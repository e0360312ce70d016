"""Files of RULER's prompts: ``OUTPUT/TASK/LENGTH.jsonl``, each described by a ``LENGTH.json``.

A sample depends on the seed, its task, length and index, the tokenizer and the texts, and on
nothing else: not on the other tasks and lengths, the number of samples, or that of processes.
"""

import hashlib
import logging
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.ruler.settings import TASKS
from recipes.common.cpus import usable_cpus
from recipes.common.errors import UserError, nearest
from recipes.common.files import atomic_write, disk_full_as_user_error
from recipes.common.json_files import read_record, write_record
from recipes.common.progress import Progress, duration

if TYPE_CHECKING:
    from evaluation.ruler.builders import Builder
    from evaluation.ruler.corpora import Corpora

log = logging.getLogger(__name__)

# changes with what is generated
GENERATOR = 1
SEED = 42
_REMEDY = "run `granite41 eval generate` again"
_KEPT = "finished files are kept"
# tokens that a process makes at a time
_CHUNK_TOKENS = 1 << 20
# tokens that are worth the seconds in which a further process starts
_WORKER_TOKENS = 4 * _CHUNK_TOKENS
_ATTEMPTS = 8
# shares of the length: a sample with this much is not tried again, one with less than that is none
_ENOUGH = 0.99
_LEAST = 0.95
# the templates are in every sample
_NOT_IN_METADATA = ("head", "tail", "answer_prefix")


@dataclass(frozen=True)
class SampleSet:
    """The samples of one file.

    Attributes:
        generator: version of the generator.
        tokenizer: SHA-256 (hex) of tokenizer.json.
        task: its name.
        length: tokens of prompt and answer together.
        count: samples.
        seed: of the random numbers.
        corpus: fingerprint of the texts that the task uses.
        kind: ``published`` or ``fallback`` texts; None for a task that needs none.
    """

    generator: int
    tokenizer: str
    task: str
    length: int
    count: int
    seed: int
    corpus: str
    kind: str | None


@dataclass(frozen=True)
class Metadata(SampleSet):
    """A file of samples.

    Attributes:
        settings: ``name`` (``published``, or of a smaller variant), ``budget`` (tokens of the
            answer) and the task's own.
        fill_min: the least share of ``length`` that a prompt and its budget take.
        fill_mean: the mean of the same.
        sha256: of the file of samples, hex.
        bytes: its size.
    """

    settings: dict[str, Any]
    fill_min: float
    fill_mean: float
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Chunk:
    """Some samples of one file, which a process makes at a time.

    Attributes:
        builder: position of the builder.
        seed: of the random numbers.
        indices: of the samples.
    """

    builder: int
    seed: int
    indices: range


@dataclass(frozen=True)
class ChunkResult:
    """The samples of a chunk.

    Attributes:
        lines: JSON lines.
        tokens: of each prompt with its budget.
    """

    lines: bytes
    tokens: list[int]


def samples_file(
    folder: Path,
    task: str,
    length: int,
) -> Path:
    """Return the path of the samples of ``task`` at ``length``."""
    return folder / task / f"{length}.jsonl"


def read_metadata(
    folder: Path,
    task: str,
    length: int,
) -> Metadata:
    """Return the description of ``task`` at ``length``; checks the samples' size and checksum.

    Raises:
        UserError: a file is missing or damaged.
    """
    path = samples_file(folder, task, length)
    metadata = read_record(Metadata, path.with_suffix(".json"), _REMEDY)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_REMEDY}")
    size = path.stat().st_size
    if size != metadata.bytes:
        raise UserError(f"{path}: has {size:,} bytes, expected {metadata.bytes:,}; {_REMEDY}")
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != metadata.sha256:
        raise UserError(f"{path}: was changed (SHA-256 differs); {_REMEDY}")
    return metadata


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
) -> None:
    """Write ``samples`` prompts of each task and length; files that are whole are kept.

    A line is an object with ``task``, ``length``, ``index``, ``input`` (the prompt, which ends with
    ``answer_prefix``), ``answer_prefix``, ``outputs`` (the right answers), ``tokens`` (of the
    prompt, with those that the tokenizer adds by itself), ``budget`` (tokens for the answer) and
    ``settings`` (their name). ``tokens + budget`` is 95 % of ``length`` or more, never above it.

    Args:
        tokenizer: folder with tokenizer.json.
        lengths: tokens of prompt and answer together.
        samples: of each task and length.
        output: folder; created.
        tasks: some of ``TASKS``.
        corpora: folder that ``corpora.fetch`` made; None for the project's own short texts.
        seed: another one gives other samples.
        workers: processes; None for one per processor.

    Raises:
        UserError: no such task; a length that is too short for a task; no tokenizer; damaged texts;
            a full disk.
    """
    from evaluation.ruler.corpora import load

    _check_arguments(lengths, samples, tasks)
    texts = load(corpora)
    file = tokenizer / "tokenizer.json"
    checksum = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""

    # what is whole and made from the same inputs is kept
    missing = []
    for length in dict.fromkeys(lengths):
        for task in dict.fromkeys(tasks):
            kind, fingerprint = texts.used_by(task)
            sample_set = SampleSet(
                generator=GENERATOR,
                tokenizer=checksum,
                task=task,
                length=length,
                count=samples,
                seed=seed,
                corpus=fingerprint,
                kind=kind,
            )
            if _exists(output, sample_set):
                log.info("%s@%d: %d samples, kept", task, length, samples)
            else:
                missing.append(sample_set)
    if missing:
        _make(tokenizer, texts, missing, output, workers or usable_cpus())


def _check_arguments(
    lengths: Sequence[int],
    samples: int,
    tasks: Sequence[str],
) -> None:
    for task in tasks:
        if task not in TASKS:
            raise UserError(
                f"task {task!r}: expected one of {', '.join(TASKS)}{nearest(task, TASKS)}"
            )
    if samples < 1 or min(lengths) < 1:
        raise UserError(
            f"samples {samples}, lengths {list(lengths)}: expected numbers of 1 or more"
        )


def _exists(output: Path, sample_set: SampleSet) -> bool:
    """Whether ``output`` holds ``sample_set``; what is damaged is made again."""
    path = samples_file(output, sample_set.task, sample_set.length)
    if not path.exists() and not path.with_suffix(".json").exists():
        return False
    try:
        metadata = read_metadata(output, sample_set.task, sample_set.length)
    except UserError as error:
        log.warning("%s; made again", str(error).rpartition(";")[0])
        return False
    return all(
        getattr(metadata, field.name) == getattr(sample_set, field.name)
        for field in fields(SampleSet)
    )


def _make(
    tokenizer: Path,
    texts: "Corpora",
    sample_sets: list[SampleSet],
    output: Path,
    workers: int,
) -> None:
    from evaluation.ruler.builders import choose
    from evaluation.ruler.counting import Counter
    from evaluation.ruler.tables import Tables

    longest = max(sample_set.length for sample_set in sample_sets)
    tables = Tables(Counter(tokenizer), texts, longest)
    builders = []
    # cost of each file, for the number of processes and the time left
    tokens = []
    for sample_set in sample_sets:
        builders.append(choose(sample_set.task, sample_set.length, tables))
        tokens.append(sample_set.length * sample_set.count)

    workers = min(workers, 1 + sum(tokens) // _WORKER_TOKENS)
    progress = Progress(sum(tokens))
    with _run_in_order(builders, _split(sample_sets), workers, output) as results:
        for sample_set, builder, cost in zip(sample_sets, builders, tokens, strict=True):
            metadata = _write(sample_set, builder, results, output)
            progress.advance(cost)
            _log_file(metadata, progress)


def _split(sample_sets: list[SampleSet]) -> list[Chunk]:
    """Return the chunks of all files, in the order of the files."""
    chunks = []
    for builder, sample_set in enumerate(sample_sets):
        size = max(1, _CHUNK_TOKENS // sample_set.length)
        for start in range(0, sample_set.count, size):
            stop = min(start + size, sample_set.count)
            indices = range(start, stop)
            chunks.append(Chunk(builder, sample_set.seed, indices))
    return chunks


def _write(
    sample_set: SampleSet,
    builder: "Builder",
    results: Iterator[ChunkResult],
    output: Path,
) -> Metadata:
    """Write the next samples of ``results`` and their description."""
    path = samples_file(output, sample_set.task, sample_set.length)
    digest = hashlib.sha256()
    size = 0
    fills: list[float] = []
    with (
        atomic_write(path) as temporary,
        disk_full_as_user_error(path, _KEPT),
        temporary.open("wb") as file,
    ):
        while len(fills) < sample_set.count:
            chunk = next(results)
            file.write(chunk.lines)
            digest.update(chunk.lines)
            size += len(chunk.lines)
            fills += [tokens / sample_set.length for tokens in chunk.tokens]

    # the description appears last: without it the samples are not taken for whole
    settings = asdict(builder.settings)
    for name in _NOT_IN_METADATA:
        del settings[name]
    metadata = Metadata(
        **asdict(sample_set),
        settings=settings | builder.details,
        fill_min=min(fills),
        fill_mean=sum(fills) / len(fills),
        sha256=digest.hexdigest(),
        bytes=size,
    )
    with disk_full_as_user_error(path, _KEPT):
        write_record(path.with_suffix(".json"), metadata)
    return metadata


def _log_file(metadata: Metadata, progress: Progress) -> None:
    texts = f", {metadata.kind} texts" if metadata.kind else ""
    log.info(
        "%s@%d: %d samples, %.2f %% filled, %s settings%s, %s left",
        metadata.task,
        metadata.length,
        metadata.count,
        100 * metadata.fill_mean,
        metadata.settings["name"],
        texts,
        duration(progress.seconds_left),
    )


@contextmanager
def _run_in_order(
    builders: "list[Builder]",
    chunks: list[Chunk],
    workers: int,
    output: Path,
) -> Iterator[Iterator[ChunkResult]]:
    """Give the results of ``chunks`` in their order, few of them ahead of the reader."""
    if workers == 1:
        yield (_make_chunk(builders, chunk) for chunk in chunks)
        return

    # fresh interpreters: a fork would copy the locks of libraries that the caller has loaded
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers,
        context,
        initializer=_start_worker,
        initargs=(builders,),
    )
    try:
        yield _submit_in_order(pool, chunks, ahead=2 * workers)
    except BrokenProcessPool as error:
        raise UserError(
            f"{output}: a worker process died, perhaps for lack of memory; {_KEPT}, "
            f"run again with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _submit_in_order(
    pool: ProcessPoolExecutor,
    chunks: list[Chunk],
    ahead: int,
) -> Iterator[ChunkResult]:
    waiting: deque[Future] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(_work, chunk))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# of a worker process, which receives them once
_worker_builders: "list[Builder]" = []


def _start_worker(builders: "list[Builder]") -> None:
    _worker_builders.extend(builders)


def _work(chunk: Chunk) -> ChunkResult:
    return _make_chunk(_worker_builders, chunk)


def _make_chunk(builders: "list[Builder]", chunk: Chunk) -> ChunkResult:
    import orjson

    builder = builders[chunk.builder]
    samples = [make_sample(builder, chunk.seed, index) for index in chunk.indices]
    lines = [orjson.dumps(sample, option=orjson.OPT_APPEND_NEWLINE) for sample in samples]
    tokens = [sample["tokens"] + sample["budget"] for sample in samples]
    return ChunkResult(b"".join(lines), tokens)


def make_sample(
    builder: "Builder",
    seed: int,
    index: int,
) -> dict[str, Any]:
    """Return one sample, the object of a line (see :func:`generate`).

    The prompt is built, counted as a whole, and built again with more or less room where its
    number of tokens is not near the length.

    Raises:
        UserError: no attempt comes near the length.
    """
    import numpy as np

    name = f"{seed}/{builder.task}/{builder.length}/{index}"
    digest = hashlib.sha256(name.encode()).digest()
    budget = builder.settings.budget

    # a little below the limit, which costs less than a second attempt
    goal = builder.limit - builder.length // 1024
    room = goal
    best = None
    best_tokens = 0
    for _ in range(_ATTEMPTS):
        # RandomState's numbers are the same in every version of numpy
        rng = np.random.RandomState(np.frombuffer(digest, "<u4"))
        draft = builder.build(rng, index, room)
        tokens = builder.counter.count(draft.text)
        if best_tokens < tokens <= builder.limit:
            best = draft
            best_tokens = tokens
        if _ENOUGH * builder.length - budget <= tokens <= builder.limit:
            break
        room += goal - tokens

    if best is None or best_tokens + budget < _LEAST * builder.length:
        raise UserError(
            f"{builder.task}: sample {index} of {builder.length:,} tokens cannot be made with this "
            f"tokenizer ({best_tokens + budget:,} reached); ask for a greater length"
        )
    return {
        "task": builder.task,
        "length": builder.length,
        "index": index,
        "input": best.text,
        "answer_prefix": best.answer_prefix,
        "outputs": best.outputs,
        "tokens": best_tokens,
        "budget": budget,
        "settings": builder.settings.name,
    }
