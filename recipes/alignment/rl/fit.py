"""The part of a stage of reinforcement learning that needs NeMo-Aligner."""

import gc
import logging
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger

from recipes.alignment.checkpoint import CheckpointWriter, Training, load_training, load_weights
from recipes.alignment.optimizer import make_trainable
from recipes.alignment.processes import process_groups
from recipes.alignment.rewards.reward_model import open_reward_model
from recipes.alignment.rewards.workers import Workers
from recipes.alignment.rl.answering import Prompts, Scorer
from recipes.alignment.rl.inputs import StageInputs
from recipes.alignment.rl.policy import build_policy
from recipes.alignment.rl.scoring import RewardsOfAllKinds
from recipes.alignment.rl.trainer import GrpoTrainer
from recipes.alignment.rollout.in_process import InProcessEngine
from recipes.alignment.sft_fit import tensorboard, tracker_loggers
from recipes.common.cpus import usable_cpus
from recipes.runs.stage_folder import latest_checkpoint
from recipes.runs.stage_manifest import StageManifest
from recipes.spec.rl import RlRecipe
from recipes.training.fit import quiet_libraries
from recipes.training.stage_run import METRICS
from recipes.training.step_log import StepLog
from recipes.training.trackers import tracked

log = logging.getLogger(__name__)


def fit(
    recipe: RlRecipe,
    manifest: StageManifest,
    folder: Path,
    inputs: StageInputs,
    tracker: str | None = None,
) -> int:
    """Train a stage to its end, from its last checkpoint if it has one.

    Args:
        recipe: of the stage.
        manifest: of the stage, as it is at its start.
        folder: of the stage.
        inputs: that the stage reads.
        tracker: in addition to TensorBoard, see :mod:`recipes.training.trackers`.

    Returns:
        Tokens of prompts and answers that were trained on.

    Raises:
        SystemExit: a signal stopped the stage.
    """
    quiet_libraries()
    model = open_reward_model(*inputs.reward_model) if inputs.reward_model else None
    rewards = inputs.prompts.manifest.rewards
    with process_groups(recipe.parallelism), Workers(usable_cpus(), rewards) as workers:
        loggers = tracker_loggers(tracker, folder)
        with tracked(loggers, tracker, folder, manifest):
            scorer = RewardsOfAllKinds(workers, model)
            trainer = build_trainer(recipe, folder, inputs, scorer, loggers)
            # Aligner collects garbage twice a step; of what is here now there is none
            gc.collect()
            gc.freeze()
            trainer.fit()
            if trainer.stopped_by:
                raise SystemExit(128 + trainer.stopped_by)
    return trainer.tokens


def build_trainer(
    recipe: RlRecipe,
    folder: Path,
    inputs: StageInputs,
    scorer: Scorer,
    loggers: Sequence[Logger],
) -> GrpoTrainer:
    """Return the stage's trainer at the step that it continues from."""
    reference = build_policy(recipe)
    load_weights(reference, inputs.reference)
    reference.requires_grad_(False)

    # weights first: the optimizer makes its own copies of them
    policy = build_policy(recipe)
    own = latest_checkpoint(folder)
    if own is None:
        log.info("%s: starts from %s", recipe.stage, inputs.reference)
        load_weights(policy, inputs.reference)
    optimizer, scheduler = make_trainable(policy, recipe, recipe.schedule, tokens_per_step=1)
    training = Training(policy, optimizer, scheduler)

    tokenizer = inputs.tokenizer.tokenizer
    trainer = GrpoTrainer(
        recipe,
        training,
        reference,
        InProcessEngine(policy.core, stop_ids=[recipe.model.eos_token_id.value]),
        scorer,
        Prompts(
            folder=inputs.prompts,
            encode=inputs.encode,
            # a role that an answer spells out is seen by its reward
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        ),
        CheckpointWriter(folder, recipe, inputs.reference),
        StepLog(recipe.stage, recipe.steps.value, None, folder / METRICS),
        [*loggers, *tensorboard(folder)],
    )
    if own:
        trainer.load_state_dict(load_training(training, own))
    return trainer
