"""What lm-eval found for a unit: scores, standard errors, samples, and prompts that were cut."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from recipes.common.encoder import Encoder

# lm-eval's record of a document: its prompts, answers and metrics
Sample: TypeAlias = Mapping[str, Any]

_TEXTS_PER_BATCH = 256
_BITS_PER_BYTE = "bits_per_byte,none"
_BITS_PER_BYTE_STDERR = "bits_per_byte_stderr,none"


@dataclass(frozen=True)
class LmEvalResult:
    """The results of one job.

    Attributes:
        row: lm-eval's key ``metric,filter`` -> value.
        samples: documents that were scored.
        expected: documents that should have been.
        truncated: prompts that did not fit the model's context.
        higher_is_better: metric -> whether it is.
        version: of the task.
        num_fewshot: examples in the prompt.
        task_hashes: task -> hash of its prompts.
    """

    row: dict[str, float]
    samples: int
    expected: int
    truncated: int
    higher_is_better: dict[str, bool]
    version: Any
    num_fewshot: int | None
    task_hashes: dict[str, str]


def gather_result(
    task: str,
    results: Mapping[str, Any],
    samples: Mapping[str, Sequence[Sample]],
    truncated: int,
) -> LmEvalResult:
    """Return the results of a job.

    Args:
        task: lm-eval's name of its task or group, or a task file.
        results: of ``simple_evaluate``, without its samples.
        samples: of each task.
        truncated: prompts that were cut.
    """
    rows = results["results"]
    # a group's row has its own name, a task file's the name inside it
    name = task
    if name not in rows:
        name = next(iter(rows))

    # besides numbers a row has lm-eval's alias, and N/A for an unknown error
    row = {}
    for key, value in rows[name].items():
        if isinstance(value, float | int):
            row[key] = value
    if _BITS_PER_BYTE in row:
        row[_BITS_PER_BYTE_STDERR] = _stderr_of_bits(samples[name])

    num_documents = 0
    num_expected = 0
    for member, member_samples in samples.items():
        # a document has several samples where a task has several filters
        documents = {sample["doc_id"] for sample in member_samples}
        num_documents += len(documents)
        num_expected += results["n-samples"][member]["effective"]
    return LmEvalResult(
        row=row,
        samples=num_documents,
        expected=num_expected,
        truncated=truncated,
        higher_is_better=results["higher_is_better"].get(name, {}),
        version=results["versions"].get(name),
        num_fewshot=results["n-shot"].get(name),
        task_hashes=results["task_hashes"],
    )


def _stderr_of_bits(samples: Sequence[Sample]) -> float:
    """Return the standard error of bits per byte, a ratio of two sums, which lm-eval does not give.

    The ratio's linear expansion (Cochran, Sampling Techniques, 3rd edition, section 2.11) over the
    documents.
    """
    # per document: log-likelihood in nats, bytes
    pairs = np.array([sample["bits_per_byte"] for sample in samples])
    nats, sizes = pairs.T
    bits = -nats / math.log(2)

    # the residuals of a line through the origin
    ratio = bits.sum() / sizes.sum()
    residuals = bits - ratio * sizes
    squares = (residuals**2).sum()

    num_documents = len(pairs)
    correction = num_documents / max(num_documents - 1, 1)
    error = math.sqrt(correction * squares)
    return float(error / sizes.sum())


def count_truncated(
    samples: Sequence[Sample],
    tokenizer: Path,
    *,
    positions: int,
    scored_positions: int,
    max_gen_toks: int,
) -> int:
    """Return how many prompts are longer than the model's context, and so were cut.

    Args:
        samples: of a task.
        tokenizer: the model's folder.
        positions: tokens that a prompt and an answer to generate may have.
        scored_positions: tokens that a prompt and a given answer may have.
        max_gen_toks: budget of an answer where the task has none.
    """
    truncated = 0
    # RULER's samples have been counted when they were generated
    if samples and "budget" in samples[0]["doc"]:
        for sample in samples:
            document = sample["doc"]
            truncated += document["tokens"] + document["budget"] > positions
        return truncated

    # prompt -> tokens that it may have
    limits: dict[str, int] = {}
    for prompt, answer in _prompts(samples):
        # settings of an answer to generate, or a continuation to score
        if isinstance(answer, Mapping):
            budget = answer.get("max_gen_toks", max_gen_toks)
            limits[str(prompt)] = positions - budget
        else:
            limits[str(prompt + answer)] = scored_positions

    counts = _count_tokens(list(limits), tokenizer)
    for count, limit in zip(counts, limits.values(), strict=True):
        truncated += count > limit
    return truncated


def _prompts(samples: Sequence[Sample]) -> Iterator[tuple[Any, Any]]:
    for sample in samples:
        for prompt, *answer in sample["arguments"]:
            # alone a prompt is a whole text, which lm-eval reads in windows
            if answer:
                yield prompt, answer[0]


def _count_tokens(texts: list[str], tokenizer: Path) -> list[int]:
    encoder = Encoder(tokenizer)

    def count() -> list[int]:
        counts: list[int] = []
        for start in range(0, len(texts), _TEXTS_PER_BATCH):
            _, lengths = encoder.encode(texts[start : start + _TEXTS_PER_BATCH])
            counts += lengths.tolist()
        return counts

    return encoder.run(count)
