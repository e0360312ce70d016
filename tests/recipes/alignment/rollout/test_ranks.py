"""All ranks of a trainer with one client of its servers."""

import os
from pathlib import Path

import pytest

from recipes.alignment.rollout.folder import RolloutFolder
from recipes.common.errors import UserError
from tests.helpers.rollout_server import write_policy
from tests.helpers.rollout_trainer import Trainer, asked, check, running

pytestmark = pytest.mark.slow


def _check_ranks(folder: Path) -> None:
    import torch.distributed as dist
    from megatron.core import parallel_state

    from recipes.alignment.rollout.on_servers import Policy
    from recipes.alignment.rollout.ranks import RankedEngine
    from recipes.compat import cpu

    cpu.install()
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    rank = int(os.environ["RANK"])
    trainer = Trainer(folder, RolloutFolder(folder / "rollout"), seed=1)
    exported = []

    def export(target: Path) -> None:
        exported.append(target)
        # as the export of a model whose parts the ranks have
        dist.barrier()
        if rank == 0:
            trainer.export(target)

    policy = Policy(trainer.source, export, trainer.score, trainer.policy.stop_ids)
    engine = RankedEngine(policy, lambda led: trainer.engine(policy=led))
    engine.refresh(1)
    assert exported == [trainer.rollout.weights(1)]
    # each rank has prompts of its own, not equally many
    requests = asked()[:3] if rank == 0 else asked()[3:]
    check(trainer, requests, engine.generate(requests), 1)
    assert engine.generate([]) == []

    # a mistake is every rank's
    trainer.faults(keeps_weights=True)
    trainer.seed = 2
    with pytest.raises(UserError, match="version 2, loaded twice"):
        engine.refresh(2)
    trainer.faults()
    engine.close()


def test_each_rank_gets_the_answers_to_its_prompts(forked, tmp_path: Path) -> None:
    write_policy(tmp_path / "source", seed=99)
    trainer = Trainer(tmp_path, RolloutFolder(tmp_path / "rollout"))
    for seed in (1, 2):
        write_policy(tmp_path / f"trainer-{seed}", seed)
    with running(trainer):
        forked(_check_ranks, tmp_path, world_size=2)
