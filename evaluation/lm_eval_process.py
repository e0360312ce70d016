"""lm-eval in a process of its own: loads the model once, then scores one job after the other."""

import ctypes
import errno
import logging
import os
import shutil
import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from evaluation.backends import SERVER, Backend
from evaluation.lm_eval_result import LmEvalResult, count_truncated, gather_result
from evaluation.server import ServerRefused, ServerStopped
from recipes.common.environment import ALLOW_CODE
from recipes.model_folder.view import transformers_view
from recipes.model_folder.weights import open_folder

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FULL_DISK_BYTES = 1 << 20


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


def serve(
    connection: Connection,
    parent_end: Connection,
    backend: Backend,
    tokenizer: Path,
    log: Path,
) -> None:
    """Load the model, then score the jobs that arrive until the other end closes or sends None.

    Sends ``("ready", warning or None)`` once loaded, then for each job ``("done", LmEvalResult)``,
    or ``("failed", reason)``, ``("server", reason)`` or ``("full", reason)``. Everything that
    lm-eval prints goes to ``log``.
    """
    parent_end.close()
    _prepare_process(log)
    try:
        model, warning = _load(backend)
    except Exception as error:
        traceback.print_exc()
        connection.send((_error_kind(error), error_sentence(error)))
        return

    connection.send(("ready", warning))
    while (job := connection.recv()) is not None:
        try:
            connection.send(("done", _score(model, job, tokenizer)))
        except Exception as error:
            traceback.print_exc()
            connection.send((_error_kind(error), error_sentence(error)))


def error_sentence(error: Exception) -> str:
    """Return an exception as half a sentence."""
    if isinstance(error, ServerRefused | ServerStopped):
        return str(error)
    # the name of the class, as some exceptions have no text
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}".removesuffix(": ")


def _prepare_process(log: Path) -> None:
    # the parent decides what a Ctrl-C or SIGTERM ends, and takes this process along when it dies
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    stdout = 1
    stderr = 2
    with log.open("ab", buffering=0) as file:
        descriptor = file.fileno()
        os.dup2(descriptor, stdout)
        os.dup2(descriptor, stderr)
    # tokenizers warns of threads in a process that was forked
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _load(backend: Backend) -> tuple[Any, str | None]:
    """Return lm-eval's model, and what it cannot do."""
    import torch
    from lm_eval import simple_evaluate  # noqa: F401  a second, which the first unit need not pay
    from lm_eval.api.registry import get_model

    from recipes.compat.lm_eval import describe_machine_once

    describe_machine_once()
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    settings: dict[str, Any] = {"batch_size": backend.batch_size}
    if backend.name == SERVER:
        from evaluation.lm_eval_server import CompletionsModel

        server = CompletionsModel(**backend.arguments, **settings)
        return server, server.probe()

    # lm-eval asks for cuda:0 by default
    model_class = get_model(backend.name)
    arguments = dict(backend.arguments)
    if backend.name == "hf" and not torch.cuda.is_available():
        arguments.setdefault("device", "cpu")
    with transformers_view(open_folder(Path(arguments["pretrained"]))) as view:
        arguments["pretrained"] = str(view)
        return model_class.create_from_arg_obj(arguments, settings), None


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
    manager = TaskManager(
        include_defaults=False,
        include_path=list(job.folders),
    )

    output = Path(job.output)
    file = output / "results.json"
    tracker = EvaluationTracker(output_path=str(file))
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
        truncated += count_truncated(
            task_samples,
            tokenizer,
            positions=job.positions,
            # a server needs one of them for a token that it generates
            scored_positions=min(job.positions, model.max_length),
            max_gen_toks=model.max_gen_toks,
        )
    _save(tracker, results, samples, output)
    return gather_result(job.task, results, samples, truncated)


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
    is_complete = len(result_files) == 1
    if len(sample_files) != len(samples):
        is_complete = False
    if is_complete and all(map(_ends_with_newline, sample_files)):
        return

    # lm-eval has only logged the reason, which a full disk most likely is
    code = errno.EIO
    usage = shutil.disk_usage(folder)
    if usage.free < _FULL_DISK_BYTES:
        code = errno.ENOSPC
    raise OSError(
        code,
        "lm-eval could not write its results",
        str(folder),
    )


def _ends_with_newline(file: Path) -> bool:
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - 1))
        last = stream.read()
    return last == b"\n"


def _error_kind(error: Exception) -> str:
    if isinstance(error, ServerStopped):
        return "server"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "full"
    return "failed"
