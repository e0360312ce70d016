"""Runs the completions of the code tasks in the sandbox; lm-eval calls these functions.

The ``run_*`` functions are lm-eval filters: they take the responses of every document (a list of
lists of texts) and the documents, and return the outcomes in place of the responses, where
lm-eval's samples show them (``filtered_resps``: ``passed``, or the reason of a failure). They raise
UserError unless GRANITE41_ALLOW_CODE is 1.
"""

import os
from collections.abc import Callable
from typing import Any

from evaluation import sandbox
from evaluation.lm_eval_process import ALLOW_CODE
from recipes.common.cpus import usable_cpus
from recipes.common.errors import UserError

# more than the 3 s of lm-eval's metric: many run at once, and importing NumPy is part of it
SECONDS = 10.0
MEMORY_BYTES = 4 * 2**30  # the limit of EvalPlus

Document = dict[str, Any]


def run_humaneval(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """HumanEval and HumanEval+: the prompt continued, then the problem's ``check`` of it."""

    def program(document: Document, text: str) -> str:
        test = f"{document['test']}\ncheck({document['entry_point']})"
        return f"{document['prompt']}{text}\n{test}"

    return _run(responses, documents, program)


def run_mbpp(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """MBPP: the response, then the three tests that the prompt shows."""

    def program(document: Document, text: str) -> str:
        return "\n".join([text, *document["test_list"][:3]])

    return _run(responses, documents, program)


def run_mbpp_plus(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """MBPP+: the response, then the test program of EvalPlus."""
    return _run(
        responses,
        documents,
        lambda document, text: f"{text}\n{document['test']}",
    )


def pass_at_1(document: Document, results: list[str]) -> dict[str, float]:
    """1 where the greedy completion passed, else 0."""
    return {"pass@1": float(results[0] == sandbox.PASSED)}


def _run(
    responses: list[list[str]],
    documents: list[Document],
    program: Callable[[Document, str], str],
) -> list[str]:
    if os.environ.get(ALLOW_CODE) != "1":
        raise UserError(
            f"this task runs code that the model has written, which needs permission; set "
            f"{ALLOW_CODE}=1 (`granite41 eval --allow-code` does), or leave the task out"
        )
    programs = []
    for document, texts in zip(documents, responses, strict=True):
        programs.append(program(document, texts[0]))
    workers = usable_cpus()
    outcomes = sandbox.run_many(
        programs,
        workers,
        seconds=SECONDS,
        memory_bytes=MEMORY_BYTES,
    )
    return [outcome.reason for outcome in outcomes]
