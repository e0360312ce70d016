"""Runs the completions of the code tasks in the sandbox; lm-eval calls these functions.

The ``run_*`` functions are lm-eval filters: they take the responses of every document (a list of lists of texts) and
the documents, and return the outcomes in the responses' place, which is where lm-eval's samples show them
(``filtered_resps``: ``passed``, or the reason why not). They raise UserError unless GRANITE41_ALLOW_CODE is 1.
"""

import os
from collections.abc import Callable
from typing import Any

from evaluation import sandbox
from recipes.common.errors import UserError

ALLOW = "GRANITE41_ALLOW_CODE"
SECONDS = 10.0  # more than the 3 s of lm-eval's metric: many run at once, and importing NumPy is part of it
MEMORY_BYTES = 4 * 2**30  # the limit of EvalPlus

Document = dict[str, Any]


def run_humaneval(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """HumanEval and HumanEval+: the prompt continued, then the problem's ``check`` of it."""
    return _run(
        responses,
        documents,
        lambda doc, text: f"{doc['prompt']}{text}\n{doc['test']}\ncheck({doc['entry_point']})",
    )


def run_mbpp(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """MBPP: the response, then the three tests that the prompt shows."""
    return _run(responses, documents, lambda doc, text: "\n".join([text, *doc["test_list"][:3]]))


def run_mbpp_plus(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """MBPP+: the response, then the test program of EvalPlus."""
    return _run(responses, documents, lambda doc, text: f"{text}\n{doc['test']}")


def pass_at_1(document: Document, results: list[str]) -> dict[str, float]:
    """1 where the greedy completion passed, else 0."""
    return {"pass@1": float(results[0] == sandbox.PASSED)}


def _run(
    responses: list[list[str]], documents: list[Document], program: Callable[[Document, str], str]
) -> list[str]:
    if os.environ.get(ALLOW) != "1":
        raise UserError(
            f"this task runs code that the model has written, which nobody has allowed; set {ALLOW}=1 "
            "(`granite41 eval --allow-code` does), or leave the task out"
        )
    programs = [program(doc, texts[0]) for doc, texts in zip(documents, responses, strict=True)]
    workers = len(os.sched_getaffinity(0))
    outcomes = sandbox.run_many(programs, workers, seconds=SECONDS, memory_bytes=MEMORY_BYTES)
    return [outcome.reason for outcome in outcomes]
