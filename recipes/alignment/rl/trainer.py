"""NeMo-Aligner's trainer of REINFORCE, as on-policy GRPO within a stage of this project."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from megatron.core import parallel_state
from nemo_aligner.utils.train_script_utils import CustomLoggerWrapper
from omegaconf import OmegaConf

from recipes.alignment.checkpoint import CheckpointWriter, Training
from recipes.alignment.model import sum_over_batch
from recipes.alignment.rl.advantages import have_signal
from recipes.alignment.rl.answering import Answering, Prompts, Scorer, Seconds
from recipes.alignment.rl.answers import reward_metrics
from recipes.alignment.rl.experience import (
    Answer,
    AnswerRow,
    Rows,
    Scores,
    advantages,
    engine_scores,
    lay_rows,
    trained_tokens,
    with_known,
)
from recipes.alignment.rl.loss import answer_weights
from recipes.alignment.rl.policy import GranitePolicy
from recipes.alignment.rl.replica import from_all_replicas
from recipes.alignment.rollout.engine import Engine
from recipes.alignment.sft_trainer import StopTimer
from recipes.compat import nemo_aligner_rl
from recipes.spec.rl import RlRecipe
from recipes.training.step_log import StepLog, learning_rates

nemo_aligner_rl.install()

from nemo_aligner.algorithms.reinforce import ReinforceTrainer  # noqa: E402

log = logging.getLogger(__name__)

# counters that Aligner logs as metrics
ALIGNERS_OWN = ("epoch", "lr", "optim_step")
# rounds of dynamic sampling in a step, as in verl's DAPO recipe; the last one keeps every group
SAMPLING_ROUNDS = 10


class GrpoTrainer(ReinforceTrainer):
    """Trains a stage from the step that it has reached to its end, or until it is stopped.

    Aligner's loop calls :meth:`generate_rollouts`, trains one optimizer step on what that returns,
    and saves. What an answer is depends on the weights and on its draw, so a checkpoint holds the
    weights, the optimizer and how many prompts were drawn, and no random state.

    Attributes:
        step: steps done.
        draws: prompts drawn.
        tokens: of prompts and answers, trained on.
        stopped_by: the signal that stopped the stage; 0 for none.
    """

    def __init__(
        self,
        recipe: RlRecipe,
        training: Training,
        reference: GranitePolicy,
        engine: Engine,
        scorer: Scorer,
        prompts: Prompts,
        writer: CheckpointWriter,
        lines: StepLog,
        loggers: list[Logger],
    ) -> None:
        """Prepare to train.

        Args:
            recipe: of the stage.
            training: at the stage's start, or as a checkpoint has it.
            reference: the policy at the stage's start.
            engine: that answers prompts.
            scorer: of answers.
            prompts: of the stage.
            writer: of checkpoints.
            lines: of the metrics file.
            loggers: TensorBoard's and others.
        """
        self._recipe = recipe
        self._training = training
        self._reference = reference
        self._engine = engine
        self._writer = writer
        self._stop = StopTimer()
        self._seconds = Seconds()
        self._answering = Answering(recipe, prompts, engine, scorer, self._seconds)
        self.draws = 0
        self.tokens = 0
        config = {
            "max_epochs": 1,
            "max_steps": recipe.steps.value,
            "model_gbs": recipe.train_batch_size.value,
            "save_interval": recipe.checkpoint_every_steps.value,
            "val_check_interval": 0,
            # the loss has the KL term
            "initial_policy_kl_penalty": 0.0,
            "rollout_batch_seq_length": None,
            # Megatron's optimizer clips
            "gradient_clip_val": None,
        }
        super().__init__(
            cfg=OmegaConf.create(config),
            model=training.model,
            optimizer=training.optimizer,
            scheduler=training.scheduler,
            train_dataloader_builder=self._whole_stage,
            val_dataloader_builder=None,
            collate_fn=None,
            rm=None,
            batch_iterator_cls=None,
            logger=_StepLines(self, lines, loggers),
            ckpt_callback=None,
            run_timer=self._stop,
        )

    def _whole_stage(self, consumed_samples: int) -> SimpleNamespace:
        """Return what Aligner counts steps by: one epoch is the whole stage."""
        size = self._recipe.train_batch_size.value
        sampler = SimpleNamespace(
            total_samples=self._recipe.steps.value * size, global_batch_size=size, drop_last=True
        )
        return SimpleNamespace(batch_sampler=sampler)

    @property
    def stopped_by(self) -> int:
        """The signal that stopped the stage before its end; 0 for none."""
        return self._stop.signum if self.step < self.max_steps else 0

    def fit(self) -> None:
        """Train."""
        self.logger.open()
        super().fit()
        self.logger.close()
        if self.stopped_by:
            self._stop.log_stop(self._recipe.stage, self.step, self._stop.signum)

    @torch.no_grad()
    def generate_rollouts(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
        """Have the step's prompts answered, and look at the answers with policy and reference.

        Returns:
            This rank's part of the batch, the metrics of the step, and seconds by part.
        """
        self._seconds.clear()
        with self._seconds.of("refresh"):
            self._engine.refresh(self.step)
        answers = self._collect()
        laid = self._lay(answers)
        with self._seconds.of("log_probabilities"):
            scores = self._score(laid, answers)
        rows = self._rows(laid, answers, scores)

        records = chain.from_iterable(from_all_replicas([answer.record() for answer in answers]))
        metrics: dict[str, Any] = {**reward_metrics(list(records)), **_token_metrics(scores)}
        metrics["padding"] = laid.padding
        metrics["prompts_drawn"] = self.draws
        if metrics["no_signal"] == 1:
            log.warning(
                "step %d: the answers to each prompt have the same reward, only the KL term trains",
                self.step + 1,
            )
        # Aligner counts the first, and shows the table
        batch = {"response_tokens": torch.zeros(len(answers)), "rows": rows}
        metrics["table"] = {"prompt": "", "response": "", "reward": 0.0}
        seconds = {f"seconds/{part}": value for part, value in self._seconds.items()}
        return batch, metrics, seconds

    def run_training(self, dataloader_iter: Any) -> Any:
        """Do the optimizer step."""
        result = super().run_training(dataloader_iter)
        if result[1]["off_policy"]:
            log.warning(
                "step %d: %.2g of the tokens have another probability than when they were drawn, "
                "expected none of an on-policy step",
                self.step + 1,
                result[1]["off_policy"],
            )
        return result

    def _collect(self) -> list[Answer]:
        """Return this replica's answers of the step, whole groups.

        With dynamic sampling each group without signal makes way for another prompt's.
        """
        replicas = parallel_state.get_data_parallel_world_size()
        rank = parallel_state.get_data_parallel_rank()
        wanted = self._recipe.prompts_per_step.value // replicas
        size = self._recipe.samples_per_prompt.value
        kept: list[Answer] = []
        missing = [wanted] * replicas
        for number in range(SAMPLING_ROUNDS):
            answers = self._answering.answer(self.draws + sum(missing[:rank]), count=missing[rank])
            self.draws += sum(missing)
            if self._recipe.dynamic_sampling.value and number < SAMPLING_ROUNDS - 1:
                answers = _with_signal(answers)
            kept += answers
            missing = from_all_replicas(wanted - len(kept) // size)
            if not any(missing):
                break
        return kept

    def _lay(self, answers: Sequence[Answer]) -> Rows:
        parallel = self._recipe.parallelism
        multiple = 1
        if parallel.sequence_parallel.value:
            multiple = parallel.tensor_model_parallel_size.value
        capacity = parallel.micro_batch_size.value * self._recipe.sequence_length.value
        laid = lay_rows(answers, capacity, multiple)
        lengths = [len(answer.prompt_ids) + len(answer.sample.ids) for answer in answers]
        self.tokens += sum(from_all_replicas(sum(lengths)))
        return laid

    def _score(self, laid: Rows, answers: Sequence[Answer]) -> Scores:
        policy = self.model.score(laid.rows)
        reference = self._reference.score(laid.rows)
        # other pipeline stages than the last see no log-probabilities
        engine = engine_scores(laid, answers) if policy else []
        return Scores(
            policy=[row["log_probabilities"] for row in policy],
            reference=[row["log_probabilities"] for row in reference],
            engine=engine,
            entropies=[row["entropies"] for row in policy],
        )

    def _rows(self, laid: Rows, answers: Sequence[Answer], scores: Scores) -> list[AnswerRow]:
        """Return the rows with what is known of their tokens, where that is known."""
        recipe = self._recipe
        by_replica = from_all_replicas([trained_tokens(answer, recipe) for answer in answers])
        weights = answer_weights(
            torch.tensor(list(chain.from_iterable(by_replica))),
            recipe.loss_reduction.value,
            recipe.answers_per_mean.value,
        )
        first = sum(len(counts) for counts in by_replica[: parallel_state.get_data_parallel_rank()])
        if not scores.policy:
            return laid.rows
        return with_known(
            laid,
            answers,
            scores,
            advantages=advantages(answers, recipe),
            weights=weights[first : first + len(answers)],
            importance_cap=recipe.importance_cap.value,
        )

    def save(self, extra_candidates: Any = None, is_train_end: bool = False) -> None:
        """Save a checkpoint, with counters as whole numbers."""
        self._writer.save(self._training, self.step, self.state_dict())

    def state_dict(self) -> dict[str, int]:
        """Return how far the stage is."""
        return {"step": self.step, "draws": self.draws, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the steps that a checkpoint has done."""
        self.step = state_dict["step"]
        self.reinforce_optimization_step = self.step
        self.draws = state_dict["draws"]
        self.tokens = state_dict["tokens"]


def _with_signal(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers of the groups whose rewards differ."""
    if not answers:
        return []
    rewards = torch.tensor([answer.reward.value for answer in answers])
    groups = torch.tensor([answer.draw for answer in answers])
    keeps = have_signal(rewards, groups).tolist()
    return [answer for answer, is_kept in zip(answers, keeps, strict=True) if is_kept]


def _token_metrics(scores: Scores) -> dict[str, float]:
    """Return means over the answers' tokens of all replicas."""
    tokens, kl, entropy, gap, divergence = sum_over_batch(scores.sums()).tolist()
    return {
        "kl": kl / tokens,
        "entropy": entropy / tokens,
        "engine_gap": gap / tokens,
        "engine_kl": divergence / tokens,
    }


class _StepLines(CustomLoggerWrapper):
    """Writes a line for each step, of what Aligner's loop logs in three parts."""

    def __init__(self, trainer: GrpoTrainer, lines: StepLog, loggers: list[Logger]) -> None:
        super().__init__(loggers)
        self._trainer = trainer
        self._lines = lines
        self._values: dict[str, Any] = {}
        self._tokens_before = 0

    def open(self) -> None:
        """Continue the file of metrics after the steps that are done."""
        self._lines.open(self._trainer.step)
        self._tokens_before = self._trainer.tokens

    def close(self) -> None:
        """Close the file of metrics."""
        self._lines.close()

    def log_metrics(
        self, metrics: Mapping[str, Any], step: int | None = None, prefix: str = ""
    ) -> None:
        """Keep the values; with the seconds, the last part, write the step's line."""
        super().log_metrics(metrics, step, prefix)
        self._values |= metrics
        if prefix != "timers/":
            return
        values = self._values
        self._values = {}
        values["seconds/training"] = values.pop("train_time")
        tokens = self._trainer.tokens
        self._lines.step(
            self._trainer.step + 1,
            loss=values.pop("loss"),
            seconds=values.pop("rollout_time") + values["seconds/training"],
            rates=learning_rates(self._trainer.optimizer.param_groups),
            read=(tokens, tokens - self._tokens_before),
            note=f"  reward {values['reward']:.3f}",
            grad_norm=self._trainer.optimizer.grad_norm,
            **{name: value for name, value in values.items() if name not in ALIGNERS_OWN},
        )
        self._tokens_before = tokens

    def log_table(self, *args: Any, **kwargs: Any) -> None:
        """Leave out Aligner's table of answers."""
