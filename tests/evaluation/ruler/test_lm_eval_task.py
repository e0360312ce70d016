"""RULER's task files and the functions that they name, in lm-eval itself."""

import math
from pathlib import Path

import pytest

from evaluation.ruler import lm_eval_task
from evaluation.ruler.generation import generate, samples_file
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow

SAMPLES = 4


@pytest.fixture
def samples(good: Path, tmp_path: Path) -> dict[str, Path]:
    """Task -> file of its samples."""
    tasks = ["vt", "qa_1", "niah_single_1"]
    generate(good, [300], SAMPLES, tmp_path / "out", tasks=tasks, workers=1)
    return {task: samples_file(tmp_path / "out", task, 300) for task in tasks}


@pytest.mark.parametrize("task", ["vt", "qa_1", "niah_single_1"])
def test_every_answer_is_right_once_and_wrong_once(samples: dict[str, Path], task: str) -> None:
    docs = lm_eval_task.dataset(str(samples[task]))["test"]
    pairs = [lm_eval_task.choices(doc) for doc in docs]
    assert all(right != wrong for right, wrong in pairs)
    if task != "qa_1":  # whose questions share their paragraphs, but not their answers
        assert sorted(right for right, _ in pairs) == sorted(wrong for _, wrong in pairs)
    for doc, (right, _) in zip(docs, pairs, strict=True):
        assert right == (doc["outputs"][0] if task == "qa_1" else " ".join(doc["outputs"]))
        assert lm_eval_task.prompt(doc).endswith((": ", " is", "Answer:"))


def test_graded_task_in_lm_eval(samples: dict[str, Path], tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Reader(LM):
        """Prefers, token for token, what its prompt says."""

        def loglikelihood(self, requests):
            return [
                (-0.5 if request.args[1].strip() in request.args[0] else -2.0, False)
                for request in requests
            ]

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

        def generate_until(self, requests):
            raise NotImplementedError

    path = tmp_path / "task.yaml"
    lm_eval_task.write_task_file(
        path, "niah_single_1@300", samples["niah_single_1"], lm_eval_task.ANSWER_BITS, budget=64
    )
    results = simple_evaluate(
        model=Reader(), tasks=[str(path)], task_manager=TaskManager(include_defaults=False)
    )
    row = results["results"]["niah_single_1@300"]
    assert row["acc,none"] == 1.0
    assert row["margin,none"] == pytest.approx(1.5)
    # an answer is a number of seven digits
    assert row["answer_bits_per_byte,none"] == pytest.approx(0.5 / math.log(2) / 7)
    assert results["higher_is_better"]["niah_single_1@300"]["answer_bits_per_byte"] is False
    (documents,) = results["samples"].values()
    assert len(documents) == SAMPLES


def test_graded_score_is_chance_without_the_prompt() -> None:
    """What an answer is worth by itself cancels out: each is right once and wrong once."""
    worth = [-3.0, -1.0, -7.0, -2.0]
    pairs = zip(worth, [*worth[1:], worth[0]], strict=True)
    doc = {"task": "vt", "outputs": ["A"]}
    scores = [lm_eval_task.graded(doc, [(right, False), (wrong, False)]) for right, wrong in pairs]
    assert sum(score["margin"] for score in scores) == 0
    assert sum(score["acc"] for score in scores) == 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"task": \n', "line 2 holds no JSON object"),
        (b"\xff\n", "line 2 holds no JSON object"),
        (b"[]\n", "line 2 holds no JSON object"),
        (b'{"task": "vt"}\n', "line 2 has no key 'input'; run `granite41 eval generate` again"),
    ],
)
def test_damaged_samples_are_one_sentence(
    samples: dict[str, Path], line: bytes, sentence: str
) -> None:
    first, *_ = samples["vt"].read_bytes().splitlines(keepends=True)
    samples["vt"].write_bytes(first + line)
    with pytest.raises(UserError, match=rf"300\.jsonl: {sentence}"):
        lm_eval_task.dataset(str(samples["vt"]))


def test_samples_without_another_answer_cannot_be_graded(samples: dict[str, Path]) -> None:
    lines = samples["vt"].read_bytes().splitlines(keepends=True)
    samples["vt"].write_bytes(lines[0])
    docs = lm_eval_task.dataset(str(samples["vt"]))["test"]
    with pytest.raises(UserError, match="vt: its samples all have the same answers"):
        lm_eval_task.choices(docs[0])
