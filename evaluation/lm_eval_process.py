"""lm-eval in a process of its own: loads the model once, then scores one job after the other."""

import ctypes
import errno
import logging
import math
import os
import shutil
import signal
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.backends import Backend
from recipes.common.encoder import Encoder, EncoderMismatch
from recipes.model_folder.view import transformers_view
from recipes.model_folder.weights import open_folder

ALLOW_CODE = "GRANITE41_ALLOW_CODE"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TEXTS_PER_BATCH = 256
_FULL_DISK_BYTES = 1 << 20
_BITS_PER_BYTE = "bits_per_byte,none"


@dataclass(frozen=True)
class LmEvalJob:
    """The arguments of lm-eval for one unit.

    Attributes:
        name: the unit's.
        task: lm-eval's name of a task or group, or a task file.
        folders: task folders to index.
        output: folder for lm-eval's results and samples.
        num_fewshot: examples in the prompt; None for the task's own number.
        max_gen_toks: tokens of an answer; None for the task's own number.
        limit: documents of each task; None for all.
        chat_template: whether the prompt goes through the tokenizer's chat template.
        allow_code: whether code that the model writes may be run.
        positions: tokens that the model can attend over.
    """

    name: str
    task: str
    folders: tuple[str, ...]
    output: str
    num_fewshot: int | None
    max_gen_toks: int | None
    limit: int | None
    chat_template: bool
    allow_code: bool
    positions: int


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


def serve(
    connection: Connection,
    parent_end: Connection,
    backend: Backend,
    tokenizer: Path,
    log: Path,
) -> None:
    """Load the model, then score the jobs that arrive until the other end closes or sends None.

    Sends ``("ready", None)`` once loaded, then for each job ``("done", LmEvalResult)``, or
    ``("failed", reason)``, ``("server", reason)`` or ``("full", reason)``. Everything that lm-eval
    prints goes to ``log``.
    """
    parent_end.close()
    _prepare_process(log)
    try:
        model = _load(backend)
    except Exception as error:
        traceback.print_exc()
        connection.send(("failed", error_sentence(error)))
        return

    connection.send(("ready", None))
    while (job := connection.recv()) is not None:
        try:
            connection.send(("done", _score(model, job, tokenizer)))
        except Exception as error:
            traceback.print_exc()
            connection.send((_error_kind(error), error_sentence(error)))


def error_sentence(error: Exception) -> str:
    """Return an exception as half a sentence."""
    # the name of the class, as some exceptions have no text
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}".removesuffix(": ")


def _prepare_process(log: Path) -> None:
    # the parent decides what a Ctrl-C or SIGTERM ends, and takes this process along when it dies
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # standard output and error
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # tokenizers warns of threads in a process that was forked
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _load(backend: Backend) -> Any:
    import torch
    from lm_eval import simple_evaluate  # noqa: F401  a second, which the first unit need not pay
    from lm_eval.api.registry import get_model

    from recipes.compat.lm_eval import describe_machine_once

    describe_machine_once()
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    settings = {"batch_size": backend.batch_size}
    # lm-eval asks for cuda:0 by default
    if backend.name == "hf" and not torch.cuda.is_available():
        settings["device"] = "cpu"
    model_class = get_model(backend.name)
    arguments = dict(backend.arguments)
    folder = arguments.get("pretrained")
    if folder is None:
        return model_class.create_from_arg_obj(arguments, settings)
    with transformers_view(open_folder(Path(folder))) as view:
        return model_class.create_from_arg_obj({**arguments, "pretrained": str(view)}, settings)


def _score(model: Any, job: LmEvalJob, tokenizer: Path) -> LmEvalResult:
    """Score a job; write lm-eval's results and samples into its folder."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    # the tasks that run code read it
    os.environ.pop(ALLOW_CODE, None)
    if job.allow_code:
        os.environ[ALLOW_CODE] = "1"

    # without a budget the task's own
    gen_kwargs = None
    if job.max_gen_toks is not None:
        gen_kwargs = {"max_gen_toks": job.max_gen_toks}

    # the index of all tasks takes 18 s
    manager = TaskManager(include_defaults=False, include_path=list(job.folders))

    output = Path(job.output)
    tracker = EvaluationTracker(output_path=str(output / "results.json"))
    results = simple_evaluate(
        model=model,
        tasks=[job.task],
        num_fewshot=job.num_fewshot,
        limit=job.limit,
        gen_kwargs=gen_kwargs,
        apply_chat_template=job.chat_template,
        task_manager=manager,
        evaluation_tracker=tracker,
        confirm_run_unsafe_code=job.allow_code,
    )

    samples = results.pop("samples")
    truncated = 0
    for task_samples in samples.values():
        truncated += _count_truncated(model, task_samples, job.positions, tokenizer)
    _save(tracker, results, samples, output)
    return _gather(job, results, samples, truncated)


def _gather(
    job: LmEvalJob,
    results: Mapping[str, Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    truncated: int,
) -> LmEvalResult:
    rows = results["results"]
    # a group's row has its own name, a task file's the name inside it
    name = job.task
    if name not in rows:
        name = next(iter(rows))

    # besides numbers a row has lm-eval's alias, and N/A for an unknown error
    row = {}
    for key, value in rows[name].items():
        if isinstance(value, float | int):
            row[key] = value
    if _BITS_PER_BYTE in row:
        row[_BITS_PER_BYTE.replace(",", "_stderr,")] = _stderr_of_bits(samples[name])

    # a document has several samples where a task has several filters
    num_documents = 0
    num_expected = 0
    for task, task_samples in samples.items():
        num_documents += len({sample["doc_id"] for sample in task_samples})
        num_expected += results["n-samples"][task]["effective"]
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


def _stderr_of_bits(samples: Sequence[Mapping[str, Any]]) -> float:
    """Return the standard error of bits per byte, a ratio of two sums, which lm-eval does not give.

    The ratio's linear expansion (Cochran, Sampling Techniques, 3rd edition, section 2.11) over the
    documents.
    """
    # per document: log-likelihood in nats, bytes
    pairs = np.array([sample["bits_per_byte"] for sample in samples])
    num_documents = len(pairs)
    bits = -pairs[:, 0] / math.log(2)
    sizes = pairs[:, 1]

    # the residuals of a line through the origin
    ratio = bits.sum() / sizes.sum()
    residuals = bits - ratio * sizes
    correction = num_documents / max(num_documents - 1, 1)
    error = math.sqrt(correction * (residuals**2).sum())
    return float(error / sizes.sum())


def _count_truncated(
    model: Any,
    samples: Sequence[Mapping[str, Any]],
    positions: int,
    tokenizer: Path,
) -> int:
    """Return how many prompts are longer than the model's context, and so were cut."""
    # RULER's samples have been counted when they were generated
    if samples and "budget" in samples[0]["doc"]:
        documents = [sample["doc"] for sample in samples]
        return sum(doc["tokens"] + doc["budget"] > positions for doc in documents)

    # prompt -> tokens that it may have
    limits: dict[str, int] = {}
    for sample in samples:
        for text, *rest in sample["arguments"]:
            # a whole text, which lm-eval reads in windows
            if not rest:
                continue
            # settings of an answer to generate, or a continuation to score
            if isinstance(rest[0], Mapping):
                default = getattr(model, "max_gen_toks", 256)
                budget = rest[0].get("max_gen_toks", default)
                limits[str(text)] = positions - budget
            else:
                limits[str(text + rest[0])] = positions

    truncated = 0
    counts = _count_tokens(list(limits), tokenizer)
    for count, limit in zip(counts, limits.values(), strict=True):
        truncated += count > limit
    return truncated


def _count_tokens(texts: list[str], tokenizer: Path) -> list[int]:
    counts: list[int] = []
    encoder = Encoder(tokenizer)
    for start in range(0, len(texts), _TEXTS_PER_BATCH):
        batch = texts[start : start + _TEXTS_PER_BATCH]
        # the fast encoder is checked against the tokenizer, which takes over where they differ
        try:
            counts += encoder.encode(batch)[1].tolist()
        except EncoderMismatch:
            encoder = Encoder(tokenizer, reference_only=True)
            counts += encoder.encode(batch)[1].tolist()
    return counts


def _save(
    tracker: Any,
    results: Any,
    samples: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write lm-eval's files; raise OSError where they are not whole, which lm-eval only logs."""
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, task_samples in samples.items():
        tracker.save_results_samples(task_name=task, samples=task_samples)

    # one file of results, and one of samples for each task
    result_files = list(folder.glob("results_*.json"))
    sample_files = list(folder.glob("samples_*.jsonl"))
    is_complete = len(result_files) == 1 and len(sample_files) == len(samples)
    if is_complete and all(map(_ends_with_newline, sample_files)):
        return

    # lm-eval has only logged the reason, which a full disk most likely is
    is_full = shutil.disk_usage(folder).free < _FULL_DISK_BYTES
    code = errno.ENOSPC if is_full else errno.EIO
    raise OSError(code, "lm-eval could not write its results", str(folder))


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 1))
        return stream.read() == b"\n"


def _error_kind(error: Exception) -> str:
    import aiohttp
    import requests

    if isinstance(error, requests.RequestException | aiohttp.ClientError | TimeoutError):
        return "server"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "full"
    return "failed"
