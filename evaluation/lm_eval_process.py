"""lm-eval in a process of its own: the model is loaded once, then one (task, length) after the other is scored."""

import ctypes
import errno
import functools
import logging
import math
import os
import shutil
import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.backends import Backend
from recipes.common.encoder import Encoder, EncoderMismatch

ALLOW_CODE = "GRANITE41_ALLOW_CODE"
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_COUNTED_AT_ONCE = 256
_FULL_BYTES = 1 << 20
_BITS = "bits_per_byte,none"


@dataclass(frozen=True)
class Job:
    """What lm-eval is called with for one unit.

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


def serve(
    connection: Connection, parents: Connection, backend: Backend, tokenizer: Path, log: Path
) -> None:
    """Load the model and score the jobs that arrive, until the other end closes or sends None.

    Sends ``("ready", None)`` once loaded, then for each job ``("done", result)``, or ``("failed", reason)``,
    ``("server", reason)`` or ``("full", reason)``. Everything that lm-eval prints goes to ``log``.
    """
    parents.close()
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    # the parent decides what a Ctrl-C or SIGTERM ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
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
            connection.send((_kind(error), error_sentence(error)))


def error_sentence(error: Exception) -> str:
    """Return an exception as half a sentence."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _load(backend: Backend) -> Any:
    import torch
    from lm_eval.api.registry import get_model
    from torch.utils import collect_env

    # a second of subprocesses, which lm-eval asks for with every task
    collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    settings = {"batch_size": backend.batch_size}
    if backend.name == "hf" and not torch.cuda.is_available():
        settings["device"] = "cpu"
    return get_model(backend.name).create_from_arg_obj(dict(backend.arguments), settings)


def _score(model: Any, job: Job, tokenizer: Path) -> dict[str, Any]:
    """Return lm-eval's row for the job's task, the numbers of samples, and what its folder's files do not say."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    os.environ.pop(ALLOW_CODE, None)
    if job.allow_code:
        os.environ[ALLOW_CODE] = "1"
    # the index of all tasks takes 18 s
    manager = TaskManager(include_defaults=False, include_path=list(job.folders))
    tracker = EvaluationTracker(output_path=str(Path(job.output) / "results.json"))
    results = simple_evaluate(
        model=model,
        tasks=[job.task],
        num_fewshot=job.num_fewshot,
        limit=job.limit,
        gen_kwargs=None if job.max_gen_toks is None else {"max_gen_toks": job.max_gen_toks},
        apply_chat_template=job.chat_template,
        task_manager=manager,
        evaluation_tracker=tracker,
        confirm_run_unsafe_code=job.allow_code,
    )
    samples = results.pop("samples")
    # a group's row has its own name, a task file's the name inside it
    name = job.task if job.task in results["results"] else next(iter(results["results"]))
    truncated = sum(
        _truncated(model, found, job.positions, tokenizer) for found in samples.values()
    )
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, found in samples.items():
        tracker.save_results_samples(task_name=task, samples=found)
    _check_saved(Path(job.output), len(samples))
    row = {
        key: value
        for key, value in results["results"][name].items()
        if isinstance(value, float | int)
    }
    if _BITS in row:
        row[_BITS.replace(",", "_stderr,")] = _stderr_of_bits(samples[name])
    return {
        "row": row,
        "samples": sum(len({sample["doc_id"] for sample in found}) for found in samples.values()),
        "expected": sum(results["n-samples"][task]["effective"] for task in samples),
        "higher_is_better": results["higher_is_better"].get(name, {}),
        "version": results["versions"].get(name),
        "num_fewshot": results["n-shot"].get(name),
        "task_hashes": results["task_hashes"],
        "truncated": truncated,
    }


def _stderr_of_bits(samples: list[Mapping[str, Any]]) -> float:
    """Return the standard error of bits per byte, which lm-eval does not give: that of a ratio of two sums.

    The ratio's linear expansion (Cochran, Sampling Techniques, 3rd edition, section 2.11) over the documents.
    """
    bits, sizes = np.array([sample["bits_per_byte"] for sample in samples]).T * [
        [-1 / math.log(2)],
        [1],
    ]
    rest = bits - bits.sum() / sizes.sum() * sizes
    return float(math.sqrt(len(bits) / max(len(bits) - 1, 1) * (rest**2).sum()) / sizes.sum())


def _truncated(
    model: Any, samples: list[Mapping[str, Any]], positions: int, tokenizer: Path
) -> int:
    """Return how many of the prompts are longer than the model's context, and so were cut."""
    if samples and "budget" in samples[0]["doc"]:
        return sum(
            sample["doc"]["tokens"] + sample["doc"]["budget"] > positions for sample in samples
        )
    limits: dict[str, int] = {}
    for sample in samples:
        for text, *rest in sample["arguments"]:
            if not rest:
                continue  # a whole text, which lm-eval reads in windows
            if isinstance(rest[0], Mapping):
                room = positions - rest[0].get("max_gen_toks", getattr(model, "max_gen_toks", 256))
            else:
                text, room = text + rest[0], positions
            limits[str(text)] = room
    texts, counts = list(limits), []
    encoder = Encoder(tokenizer)
    for start in range(0, len(texts), _COUNTED_AT_ONCE):
        batch = texts[start : start + _COUNTED_AT_ONCE]
        try:
            counts += encoder.encode(batch)[1].tolist()
        except EncoderMismatch:
            encoder = Encoder(tokenizer, reference_only=True)
            counts += encoder.encode(batch)[1].tolist()
    return sum(count > limits[text] for text, count in zip(texts, counts, strict=True))


def _check_saved(folder: Path, tasks: int) -> None:
    """Raise OSError where lm-eval's files are not whole: it only logs what kept it from writing them."""
    results, samples = list(folder.glob("results_*.json")), list(folder.glob("samples_*.jsonl"))
    if len(results) == 1 and len(samples) == tasks and all(map(_is_whole, samples)):
        return
    full = shutil.disk_usage(folder).free < _FULL_BYTES
    raise OSError(
        errno.ENOSPC if full else errno.EIO, "lm-eval could not write its results", str(folder)
    )


def _is_whole(lines: Path) -> bool:
    with lines.open("rb") as file:
        file.seek(max(0, lines.stat().st_size - 1))
        return file.read() == b"\n"


def _kind(error: Exception) -> str:
    import aiohttp
    import requests

    if isinstance(error, requests.RequestException | aiohttp.ClientError | TimeoutError):
        return "server"
    return (
        "full"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "failed"
    )
