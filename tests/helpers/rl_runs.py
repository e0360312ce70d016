"""What reinforcement learning of a small model needs: prompts, and the command that trains."""

import json
from pathlib import Path

from recipes.runs.prompts import Prompt, PromptSource, write_prompts
from tests.helpers import sft_runs

# 6 steps of 4 prompts, 4 answers each; checkpoints after 2, 4 and 6
STEPS, PROMPTS_PER_STEP, SAMPLES = 6, 4, 4
PROMPTS = 10
SETTINGS = [
    *(setting for setting in sft_runs.SETTINGS if setting.startswith("model.")),
    "sequence_length=64",
    f"samples_per_prompt={SAMPLES}",
    f"train_batch_size={SAMPLES * PROMPTS_PER_STEP}",
    f"steps={STEPS}",
    "parallelism.micro_batch_size=4",
    "schedule.learning_rate=2e-3",
    "checkpoint_every_steps=2",
    'domains=["general chat"]',
]


def write(folder: Path, shortest: int = 1) -> Path:
    """Write prompts that ask for words; an untrained model answers some of them right, where it
    spells out no role.
    """
    folder.mkdir()
    prompts = []
    for number in range(PROMPTS):
        messages = [{"role": "user", "content": f"Say {number}"}]
        gold = {"shortest": shortest, "longest": 1000}
        prompts.append(Prompt(f"p{number}", "general chat", messages, "chat", gold))
    write_prompts(folder, prompts, {"test": PromptSource(PROMPTS, "CC0-1.0")}, seed=1)
    return folder


def command(run_folder: Path, prompts: Path, init: Path, *overrides: str) -> list[str]:
    """The words of the command line that trains."""
    where = ["--run-dir", str(run_folder), "--prompts", str(prompts), "--init", str(init)]
    return ["granite41", "train", "rl_math", "--size", "tiny", *where, *SETTINGS, *overrides]


def lines(run_folder: Path) -> list[dict]:
    """What the metrics hold of every step, without what a clock has measured."""
    path = run_folder / "rl_math/metrics/steps.jsonl"
    found = []
    for line in path.read_text().splitlines():
        values = json.loads(line)
        measured = [name for name in values if "second" in name]
        for name in measured:
            del values[name]
        found.append(values)
    return found
