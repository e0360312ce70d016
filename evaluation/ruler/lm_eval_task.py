"""RULER inside lm-eval: the task file for one (task, length), and the functions that it names.

Two forms: the published one, where the model writes an answer and ``metrics`` scores it; and the
graded one, of the model's probabilities of the right answers and of another sample's answers to the
same task, after the same prompt:

- ``answer_bits_per_byte``: of the right answers, lower is better. It moves from the first steps on,
  as a model learns what answers look like, and again once it finds them in the prompt.
- ``acc``: whether the right answers are the more probable ones. Chance is 50 %, where size tiny
  stays: its few hundred steps do not teach it to look a value up in its context.
- ``margin``: by how many nats they are.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from evaluation.ruler import metrics
from evaluation.ruler.settings import QUESTION_TASKS
from recipes.common.errors import UserError
from recipes.common.json_files import read_json_lines

if TYPE_CHECKING:
    from datasets import DatasetDict

ANSWER_BITS = "answer_bits_per_byte"
# metric of the graded form -> whether higher is better
GRADED = {ANSWER_BITS: False, "acc": True, "margin": True}
_KEYS = ("task", "index", "outputs", "tokens", "budget")


def write_task_file(
    path: Path,
    name: str,
    samples: Path,
    metric: str,
    budget: int,
) -> None:
    """Write lm-eval's YAML for the samples of one (task, length).

    Args:
        path: the file.
        name: lm-eval's name of the task.
        samples: the generated JSON lines.
        metric: ``match_all`` or ``match_any``, or one of :data:`GRADED`.
        budget: tokens to generate.
    """
    is_graded = metric in GRADED
    reported = GRADED if is_graded else {metric: True}
    metric_list = [
        {
            "metric": key,
            "aggregation": "mean",
            "higher_is_better": higher,
        }
        for key, higher in reported.items()
    ]
    config: dict[str, Any] = {
        "task": name,
        "dataset_kwargs": {"samples": str(samples.resolve())},
        "test_split": "test",
        "metric_list": metric_list,
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    functions = {
        "custom_dataset": "dataset",
        "doc_to_text": "prompt",
        "process_results": "graded" if is_graded else metric,
    }
    if is_graded:
        config["output_type"] = "multiple_choice"
        functions["doc_to_choice"] = "choices"
        functions["doc_to_target"] = "right_choice"
    else:
        config["output_type"] = "generate_until"
        # no stop string: RULER's answers end with the budget
        config["generation_kwargs"] = {
            "do_sample": False,
            "max_gen_toks": budget,
            "until": [],
        }
        functions["doc_to_target"] = "target"

    text = yaml.safe_dump(config, sort_keys=False)
    for key, function in functions.items():
        text += f"{key}: !function evaluation.ruler.lm_eval_task.{function}\n"
    path.write_text(text, encoding="utf-8")


def dataset(samples: str, **metadata: Any) -> "DatasetDict":
    """Return the samples without their prompts, which lm-eval would copy: 0.5 GB a task at 128K.

    Each has as ``distractor`` the answers of the next sample that has other ones, of the last the
    first's: every answer is right once and wrong once, so that a model that pays no attention to
    the prompt gains nothing from the answers that it finds likely in general.
    """
    import datasets

    found = _read(samples)
    answers = [sample["outputs"] for sample in found]
    rows = []
    for position, sample in enumerate(found):
        # the samples that follow, then those from the first on
        others = answers[position + 1 :] + answers[:position]
        distractors = [outputs for outputs in others if outputs != sample["outputs"]]

        row = {key: sample[key] for key in _KEYS}
        row["file"] = samples
        row["distractor"] = distractors[0] if distractors else []
        rows.append(row)
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})


def prompt(doc: dict[str, Any]) -> str:
    """Return the prompt of a sample."""
    return _read(doc["file"])[doc["index"]]["input"]


def target(doc: dict[str, Any]) -> str:
    """Return the expected answers as one line, for lm-eval's sample file."""
    return ", ".join(doc["outputs"])


def match_all(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the share of the answers that the output holds."""
    percent = metrics.match_all(results[0], doc["outputs"])
    return {"match_all": percent / 100}


def match_any(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1 when the output holds one of the references."""
    percent = metrics.match_any(results[0], doc["outputs"])
    return {"match_any": percent / 100}


def choices(doc: dict[str, Any]) -> list[str]:
    """Return the right answer and another sample's.

    Raises:
        UserError: no other sample has another answer.
    """
    if not doc["distractor"]:
        raise UserError(
            f"{doc['task']}: its samples all have the same answers, but a graded score needs two "
            f"that differ; generate more samples"
        )
    right = _answer(doc, doc["outputs"])
    wrong = _answer(doc, doc["distractor"])
    return [right, wrong]


def right_choice(doc: dict[str, Any]) -> int:
    """Return the position of the right answer in ``choices``."""
    return 0


def graded(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Return :data:`GRADED` of a sample.

    Args:
        results: log-probability in nats of the right answer and of the other sample's.
    """
    (right, _), (wrong, _) = results
    answer = _answer(doc, doc["outputs"])
    bits = -right / math.log(2)
    return {
        ANSWER_BITS: bits / len(answer.encode()),
        "acc": float(right > wrong),
        "margin": right - wrong,
    }


def _answer(doc: dict[str, Any], outputs: list[str]) -> str:
    """Return ``outputs`` as the model has to write them: all, or any one in the question tasks."""
    if doc["task"] in QUESTION_TASKS:
        return outputs[0]
    return " ".join(outputs)


# one task at a time: 500 samples of 512K tokens take 1 GB
@lru_cache(maxsize=1)
def _read(samples: str) -> list[dict[str, Any]]:
    found = list(read_json_lines(Path(samples)))
    for number, sample in enumerate(found, 1):
        for key in ("input", *_KEYS):
            if key not in sample:
                raise UserError(
                    f"{samples}: line {number} has no key {key!r}; "
                    f"run `granite41 eval generate` again"
                )
    return found
