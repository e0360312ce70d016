"""Judges the completions of the code tasks in the sandbox; lm-eval calls these functions.

The ``run_*`` functions are lm-eval filters: they take the responses of every document (a list of
lists of texts) and the documents, and return the outcomes in place of the responses, where
lm-eval's samples show them (``filtered_resps``: ``passed``, or the reason of a failure). They raise
UserError unless GRANITE41_ALLOW_CODE is 1.
"""

import ast
import os
from collections.abc import Callable
from typing import Any

from evaluation import sandbox
from evaluation.sandbox import Trial
from recipes.common.cpus import usable_cpus
from recipes.common.environment import ALLOW_CODE
from recipes.common.errors import UserError

# more than the 3 s of lm-eval's metric: many run at once, and importing NumPy is part of it
SECONDS = 10.0
MEMORY_BYTES = 4 * 2**30  # the limit of EvalPlus

Document = dict[str, Any]


def run_humaneval(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """HumanEval and HumanEval+: the prompt continued, then the problem's ``check`` of it."""

    def trial(document: Document, text: str) -> Trial:
        function = document["entry_point"]
        return Trial(
            program=f"{document['prompt']}{text}",
            # some tests call the helpers that the prompt defines
            setup=document["prompt"],
            tests=f"{document['test']}\ncheck({function})",
            functions=[function],
        )

    return _run(responses, documents, trial)


def run_mbpp(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """MBPP: the response, then the three tests that the prompt shows."""
    return _run(
        responses,
        documents,
        lambda document, text: _mbpp(document, text, "\n".join(document["test_list"][:3])),
    )


def run_mbpp_plus(responses: list[list[str]], documents: list[Document]) -> list[str]:
    """MBPP+: the response, then the test program of EvalPlus."""
    return _run(
        responses,
        documents,
        lambda document, text: _mbpp(document, text, document["test"]),
    )


def pass_at_1(document: Document, results: list[str]) -> dict[str, float]:
    """1 where the greedy completion passed, else 0."""
    return {"pass@1": float(results[0] == sandbox.PASSED)}


def _mbpp(document: Document, text: str, tests: str) -> Trial:
    """Return the trial of a response.

    The tests call what the reference solution defines and have the modules that it imports, whether
    or not the response imports them.
    """
    imports = list(document["test_imports"])
    functions = []
    for statement in ast.parse(document["code"]).body:
        if isinstance(statement, ast.FunctionDef):
            functions.append(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            imports.append(ast.unparse(statement))
    return Trial(program=text, setup="\n".join(imports), tests=tests, functions=functions)


def _run(
    responses: list[list[str]],
    documents: list[Document],
    trial: Callable[[Document, str], Trial],
) -> list[str]:
    if os.environ.get(ALLOW_CODE) != "1":
        raise UserError(
            f"this task runs code that the model has written, which needs permission; set "
            f"{ALLOW_CODE}=1 (`granite41 eval --allow-code` does), or leave the task out"
        )
    trials = []
    for document, texts in zip(documents, responses, strict=True):
        trials.append(trial(document, texts[0]))
    workers = usable_cpus()
    outcomes = sandbox.judge(
        trials,
        workers,
        seconds=SECONDS,
        memory_bytes=MEMORY_BYTES,
    )
    return [outcome.reason for outcome in outcomes]
