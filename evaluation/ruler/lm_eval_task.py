"""RULER inside lm-eval: the task file for one (task, length), and the functions that it names."""

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from evaluation.ruler import metrics

if TYPE_CHECKING:
    from datasets import DatasetDict

_FUNCTIONS = {"custom_dataset": "dataset", "doc_to_text": "prompt", "doc_to_target": "target"}


def write_task_file(path: Path, name: str, samples: Path, metric: str, budget: int) -> None:
    """Write lm-eval's YAML for the samples of one (task, length).

    Args:
        path: the file.
        name: lm-eval's name of the task.
        samples: the generated JSON lines.
        metric: ``match_all`` or ``match_any``.
        budget: tokens to generate.
    """
    config = {
        "task": name,
        "dataset_kwargs": {"samples": str(samples.resolve())},
        "test_split": "test",
        "output_type": "generate_until",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        # no stop string: RULER's answers end with the budget
        "generation_kwargs": {"do_sample": False, "max_gen_toks": budget, "until": []},
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    functions = {**_FUNCTIONS, "process_results": metric}
    text = yaml.safe_dump(config, sort_keys=False)
    text += "".join(
        f"{key}: !function evaluation.ruler.lm_eval_task.{name}\n"
        for key, name in functions.items()
    )
    path.write_text(text, encoding="utf-8")


def dataset(samples: str, **metadata: Any) -> "DatasetDict":
    """Return the samples without their prompts, which lm-eval would write out twice: 0.5 GB a task at 128K tokens."""
    import datasets

    keep = ("index", "outputs", "tokens", "budget")
    rows = [{"file": samples, **{key: row[key] for key in keep}} for row in _read(samples)]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})


def prompt(doc: dict[str, Any]) -> str:
    """Return the prompt of a sample."""
    return _read(doc["file"])[doc["index"]]["input"]


def target(doc: dict[str, Any]) -> str:
    """Return the expected answers as one line, for lm-eval's sample file."""
    return ", ".join(doc["outputs"])


def match_all(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the share of the answers that the output holds."""
    return {"match_all": metrics.match_all(results[0], doc["outputs"]) / 100}


def match_any(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1 when the output holds one of the references."""
    return {"match_any": metrics.match_any(results[0], doc["outputs"]) / 100}


# one task at a time: 500 samples of 512K tokens take 1 GB
@lru_cache(maxsize=1)
def _read(samples: str) -> list[dict[str, Any]]:
    with Path(samples).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
