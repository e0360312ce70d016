"""The gradient of a step is the same however its answers are laid into rows and over ranks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.registry.resolve import resolve

pytestmark = pytest.mark.slow

GROUPS = 4
SAMPLES = 4
SETTINGS = [
    f"samples_per_prompt={SAMPLES}",
    f"train_batch_size={GROUPS * SAMPLES}",
    "parallelism.micro_batch_size=1",
    "truncated_answers=mask",
    "temperature=0.7",
]
TP = "parallelism.tensor_model_parallel_size=2"
PP = "parallelism.pipeline_model_parallel_size=2"
SP = "parallelism.sequence_parallel=true"
TWO = "parallelism.gpus=2"
# name -> settings, and tokens of a row; None pads each answer to the longest
OF_TWO_RANKS: dict[str, tuple[list[str], int | None]] = {
    "dp 2": ([TWO], 120),
    "tp 2": ([TWO, TP, SP], 120),
    "pp 2": ([TWO, PP], 120),
}
OF_ONE_RANK: dict[str, tuple[list[str], int | None]] = {
    "packed": ([], 512),
    "about one answer a row": ([], 60),
    "about two": ([], 120),
    "about four": ([], 240),
    "padded": ([], None),
}
LAYOUTS = OF_TWO_RANKS | OF_ONE_RANK


def _answers(recipe: Any) -> list[Any]:
    """Return whole groups of answers of random tokens, three of which are truncated."""
    from recipes.alignment.rewards.reward import Outcome, Reward
    from recipes.alignment.rl.experience import Answer
    from recipes.alignment.rollout.engine import Sample
    from recipes.runs.prompts import Prompt

    random = np.random.default_rng(5)
    answers = []
    for draw in range(GROUPS):
        prompt = Prompt(str(draw), "math", [], "math")
        prompt_ids = random.integers(3, 2000, random.integers(3, 20), dtype=np.int32)
        for number in range(SAMPLES):
            ids = random.integers(3, 2000, random.integers(1, 40), dtype=np.int32)
            zeros = np.zeros(len(ids), dtype=np.float32)
            is_finished = (draw, number) not in ((0, 1), (2, 2), (3, 0))
            sample = Sample(ids, zeros, is_finished, weight_version=0)
            reward = Reward(float(random.integers(2)), Outcome.RIGHT)
            answers.append(Answer(draw, prompt, prompt_ids, sample, reward))
    return answers


def _laid(answers: list[Any], capacity: int | None, multiple: int) -> Any:
    from recipes.alignment.rl.experience import Rows, lay_rows

    if capacity:
        return lay_rows(answers, capacity, multiple)
    longest = max(len(answer.prompt_ids) + len(answer.sample.ids) for answer in answers)
    rows = [lay_rows([answer], longest, multiple=longest).rows[0] for answer in answers]
    return Rows(rows, [[number] for number in range(len(rows))], padding=0.5)


def _stored_weights(policy: Any, folder: Path) -> None:
    """Load a policy's weights; the first time, those that it has are stored."""
    import torch
    from megatron.core import dist_checkpointing

    if not folder.exists():
        # no rank makes it before all have looked
        torch.distributed.barrier()
        folder.mkdir(exist_ok=True)
        torch.distributed.barrier()
        dist_checkpointing.save(policy.core.sharded_state_dict(), str(folder))
        return
    torch.distributed.barrier()
    wanted = policy.core.sharded_state_dict()
    policy.core.load_state_dict(dist_checkpointing.load(wanted, str(folder)))


def _step(name: str, folder: Path) -> tuple[float, dict[str, float]]:
    """Do a step's forward and backward passes, and write the gradient in place of the weights."""
    import torch
    from megatron.core import dist_checkpointing, parallel_state

    from recipes.alignment.optimizer import make_trainable
    from recipes.alignment.processes import process_groups
    from recipes.alignment.rl.experience import (
        Scores,
        advantages,
        engine_scores,
        trained_tokens,
        with_known,
    )
    from recipes.alignment.rl.loss import answer_weights
    from recipes.alignment.rl.policy import build_policy

    settings, capacity = LAYOUTS[name]
    recipe = resolve("rl_math", "tiny", SETTINGS + settings)
    with process_groups(recipe.parallelism):
        torch.manual_seed(1)
        policy = build_policy(recipe)
        reference = build_policy(recipe)
        _stored_weights(policy, folder / "policy")
        _stored_weights(reference, folder / "reference")
        make_trainable(policy, recipe, recipe.schedule, 1)

        answers = _answers(recipe)
        counts = torch.tensor([trained_tokens(answer, recipe) for answer in answers])
        weights = answer_weights(counts, "token")
        size = len(answers) // parallel_state.get_data_parallel_world_size()
        first = parallel_state.get_data_parallel_rank() * size
        own = answers[first : first + size]

        laid = _laid(own, capacity, multiple=2)
        found = policy.score(laid.rows)
        scores = Scores(
            policy=[row["log_probabilities"] for row in found],
            reference=[row["log_probabilities"] for row in reference.score(laid.rows)],
            engine=engine_scores(laid, own),
            entropies=[row["entropies"] for row in found],
        )
        rows = laid.rows
        if found:
            own_weights = weights[first : first + size]
            rows = with_known(laid, own, scores, advantages(own, recipe), own_weights, 0.0)
        policy.prepare_for_training_step()
        loss, metrics = policy.get_loss_and_metrics({"rows": rows}, forward_only=False)
        policy.finish_training_step()

        for parameter in policy.core.parameters():
            parameter.data.copy_(parameter.main_grad)
        gradient = folder / name.replace(" ", "_")
        gradient.mkdir(exist_ok=True)
        torch.distributed.barrier()
        dist_checkpointing.save(policy.core.sharded_state_dict(), str(gradient))
    return loss, metrics


def _steps_and_gradients(names: list[str], folder: Path) -> tuple[Any, Any]:
    """Do the steps, and return what each layout has written."""
    import torch
    from megatron.core import dist_checkpointing

    from recipes.alignment.processes import process_groups
    from recipes.alignment.rl.policy import build_policy

    # by itself a process needs no port, which it could not use twice
    del os.environ["RANK"]
    done = {name: _step(name, folder) for name in names}
    recipe = resolve("rl_math", "tiny", SETTINGS)
    gradients = {}
    with process_groups(recipe.parallelism):
        policy = build_policy(recipe)
        for name in LAYOUTS:
            wanted = policy.core.sharded_state_dict()
            found = dist_checkpointing.load(wanted, str(folder / name.replace(" ", "_")))
            gradients[name] = {
                key: value.numpy() for key, value in found.items() if torch.is_tensor(value)
            }
    return done, gradients


@pytest.fixture(scope="module")
def steps(forked: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Losses and metrics by layout, and gradients by layout."""
    folder = tmp_path_factory.mktemp("policy")
    done = {name: forked(_step, name, folder, world_size=2) for name in OF_TWO_RANKS}
    others, gradients = forked(_steps_and_gradients, list(OF_ONE_RANK), folder)
    return done | others, gradients


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "packed"])
def test_gradient_does_not_depend_on_the_layout(steps: Any, name: str) -> None:
    done, gradients = steps
    assert done[name][0] == pytest.approx(done["packed"][0], rel=1e-5)
    expected = gradients["packed"]
    assert gradients[name].keys() == expected.keys()
    largest = max(np.abs(value).max() for value in expected.values())
    assert largest > 1e-3
    for key, value in gradients[name].items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=2e-6 * largest, err_msg=key)


def test_a_step_is_on_policy_to_the_bit(steps: Any) -> None:
    done, _ = steps
    for name, (_, metrics) in done.items():
        assert metrics["clip_low"] == metrics["clip_high"] == metrics["off_policy"] == 0, name
        assert metrics["trained_tokens"] == done["packed"][1]["trained_tokens"]
