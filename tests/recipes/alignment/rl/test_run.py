"""Reinforcement learning as a command: its records, resuming, ranks, and what it refuses."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from recipes.common.errors import UserError
from recipes.runs.stage_manifest import read_manifest
from tests.helpers import rl_runs
from tests.helpers.resuming import run
from tests.helpers.rl_runs import PROMPTS, PROMPTS_PER_STEP, STEPS, command, lines

pytestmark = pytest.mark.slow


def record_prompts(run_folder: Path) -> None:
    """Append the ids of the prompts that an engine is asked to a file beside the run's folder."""
    from recipes.alignment.rollout.in_process import InProcessEngine

    generate = InProcessEngine.generate
    file = run_folder.with_suffix(".asked").open("a", buffering=1)

    def generating(self, requests):
        file.write(" ".join(request.prompt_id for request in requests) + "\n")
        return generate(self, requests)

    mock.patch.object(InProcessEngine, "generate", generating).start()


def kill_in(step: int, owner: str, name: str) -> None:
    """Kill this process in the place of a call of ``owner``'s ``name`` in a step."""
    from recipes.alignment.rl.trainer import GrpoTrainer

    running = [0]
    rollouts = GrpoTrainer.generate_rollouts

    def starting(self):
        running[0] = self.step + 1
        return rollouts(self)

    mock.patch.object(GrpoTrainer, "generate_rollouts", starting).start()
    target = mock.patch(f"{owner}.{name}").get_original()[0]

    def killing(*args, **kwargs):
        if running[0] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return target(*args, **kwargs)

    mock.patch(f"{owner}.{name}", killing).start()


SCORING = partial(kill_in, 4, "recipes.alignment.rl.scoring.RewardsOfAllKinds", "score")
SAVING = partial(kill_in, 4, "recipes.alignment.rl.trainer.GrpoTrainer", "save")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return rl_runs.write(tmp_path_factory.mktemp("prompts") / "rl_math")


@pytest.fixture(scope="module")
def whole(nemo_base, prompts, tmp_path_factory) -> Path:
    """The stage, uninterrupted; its prompts are named by the folder that holds them by stage."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = run(command(folder, prompts.parent, nemo_base), partial(record_prompts, folder))
    assert ended.codes == [0], ended.errors
    return folder


def _asked(run_folder: Path) -> list[list[str]]:
    text = run_folder.with_suffix(".asked").read_text()
    return [line.split() for line in text.splitlines()]


def test_a_stage_and_its_records(whole, prompts, nemo_base) -> None:
    manifest = read_manifest(whole / "rl_math")
    assert manifest is not None and manifest.is_finished
    assert manifest.prompts is not None and manifest.reference is not None
    stated = json.loads((prompts / "manifest.json").read_text())
    assert manifest.prompts.fingerprint == stated["fingerprint"]
    assert manifest.prompts.passes == STEPS * PROMPTS_PER_STEP / PROMPTS
    assert manifest.reference.checkpoint == str(nemo_base)

    steps = lines(whole)
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert manifest.tokens == steps[-1]["tokens"] > 0
    assert steps[-1]["prompts_drawn"] == STEPS * PROMPTS_PER_STEP
    for line in steps:
        assert line["reward"] == line["reward/general chat"]
        assert line["off_policy"] == line["clip_low"] == line["clip_high"] == 0
        assert line["engine_gap"] < 1e-4
        assert line["padding"] < 0.05
        assert line["entropy"] > 0
    assert steps[0]["kl"] == 0 < steps[-1]["kl"]
    assert any(line["no_signal"] < 1 for line in steps)
    assert any(line["grad_norm"] > 0 for line in steps)


def test_every_prompt_once_a_pass(whole) -> None:
    asked = [name for step in _asked(whole) for name in step]
    assert len(asked) == STEPS * PROMPTS_PER_STEP
    expected = sorted(f"p{number}" for number in range(PROMPTS))
    assert sorted(asked[:PROMPTS]) == sorted(asked[PROMPTS : 2 * PROMPTS]) == expected
    assert asked[:PROMPTS] != asked[PROMPTS : 2 * PROMPTS]


def test_killed_twice_it_has_the_same_curve_and_prompts(
    whole, prompts, nemo_base, tmp_path
) -> None:
    folder = tmp_path / "run"
    words = command(folder, prompts, nemo_base)
    for fault in (SCORING, SAVING):
        ended = run(words, fault, partial(record_prompts, folder))
        assert ended.codes == [-signal.SIGKILL], ended.errors
    ended = run(words, partial(record_prompts, folder))
    assert ended.codes == [0], ended.errors
    assert lines(folder) == lines(whole)

    # steps 3 and 4 three times
    expected = _asked(whole)
    again = expected[2:4]
    assert _asked(folder) == expected[:2] + again + again + expected[2:]
    manifest = read_manifest(folder / "rl_math")
    assert manifest is not None and manifest.num_starts == 3


def test_ranks_share_the_prompts_and_get_the_same_answers(
    whole, prompts, nemo_base, tmp_path
) -> None:
    folder = tmp_path / "run"
    words = command(folder, prompts, nemo_base, "steps=2", "parallelism.gpus=2")
    ended = run(words, partial(record_prompts, folder), world_size=2)
    assert ended.codes == [0, 0], ended.errors
    asked = _asked(folder)
    half = PROMPTS_PER_STEP // 2
    first = _asked(whole)[0]
    assert sorted(asked[:2]) == sorted([first[:half], first[half:]])
    for line, expected in zip(lines(folder), lines(whole), strict=False):
        assert line["reward"] == expected["reward"]
        assert line["response_length"] == expected["response_length"]
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def _refusals(whole: Path, prompts: Path, base: Path, scratch: Path) -> dict[str, str]:
    """Return what :func:`prepare` says of each fault."""
    from data_prep.prompts.encoder import PromptEncoder
    from recipes.alignment.rl.run import prepare
    from recipes.runs.prompts import Prompt, PromptSource, write_prompts

    def say(name: str, *overrides: str, folder: Path = prompts, run_folder: Path = scratch) -> None:
        settings = [*rl_runs.SETTINGS, *overrides]
        with pytest.raises(UserError) as refused:
            prepare(
                "rl_math",
                "tiny",
                run_folder,
                folder,
                PromptEncoder,
                overrides=settings,
                init=base,
            )
        said[name] = str(refused.value)

    def folder_with(name: str, prompt: Prompt) -> Path:
        folder = scratch / name
        folder.mkdir()
        write_prompts(folder, [prompt], {"test": PromptSource(1, "")}, seed=1)
        return folder

    said: dict[str, str] = {}
    message = [{"role": "user", "content": "word " * 100}]
    say("long", folder=folder_with("long", Prompt("x", "general chat", message, "chat", {})))
    say("domain", 'domains=["math"]')
    say("reward", folder=folder_with("reward", Prompt("x", "general chat", message, "luck", {})))
    model = Prompt("x", "general chat", message, "reward_model", {})
    say("model", folder=folder_with("model", model))
    say("groups", "samples_per_prompt=3")
    say("single", "samples_per_prompt=1")

    unfinished = scratch / "unfinished"
    shutil.copytree(whole, unfinished)
    manifest_file = unfinished / "rl_math" / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    manifest["status"] = "running"
    manifest_file.write_text(json.dumps(manifest))
    other = rl_runs.write(scratch / "other", shortest=2)
    say("prompts", folder=other, run_folder=unfinished)
    manifest["reference"]["sha256"] = "0" * 64
    manifest_file.write_text(json.dumps(manifest))
    say("reference", run_folder=unfinished)
    return said


def test_what_is_refused(forked: Callable, whole, prompts, nemo_base, tmp_path) -> None:
    said = forked(_refusals, whole, prompts, nemo_base, tmp_path)
    assert "1 of 1 prompts leave no room for an answer in sequence_length 64 (x" in said["long"]
    assert "has prompts of the domain 'general chat', expected those of rl_math" in said["domain"]
    assert "unknown reward 'luck'" in said["reward"]
    assert "name it with --reward-model" in said["model"]
    assert "samples_per_prompt 3 does not divide train_batch_size 16" in said["groups"]
    assert "samples_per_prompt is 1, expected 2 or more" in said["single"]
    assert "began on other prompts" in said["prompts"]
    assert "its weights are not those that" in said["reference"]
