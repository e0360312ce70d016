"""From answers with rewards to the rows that the policy is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recipes.alignment.packed_batch import PackedBatch, collate
from recipes.alignment.rewards.reward import Reward
from recipes.alignment.rl.advantages import group_advantages, overlong_punishment
from recipes.alignment.rl.answers import AnswerRecord
from recipes.alignment.rl.loss import AnswerTokens, kl_estimate, truncated_importance
from recipes.alignment.rl.rows import balanced_rows
from recipes.alignment.rollout.engine import Sample
from recipes.runs.packed_folder import PackedSequence
from recipes.runs.prompts import Prompt
from recipes.spec.rl import RlRecipe


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer of the policy to a prompt.

    Attributes:
        draw: of the prompt, in the order of the stage; the answers to a draw are a group.
        prompt: that was answered.
        prompt_ids: int32, shape (tokens,).
        sample: the answer.
        reward: of the answer.
    """

    draw: int
    prompt: Prompt
    prompt_ids: np.ndarray
    sample: Sample
    reward: Reward

    def record(self) -> AnswerRecord:
        """Return it without its tokens."""
        return AnswerRecord(
            draw=self.draw,
            prompt_id=self.prompt.id,
            domain=self.prompt.domain,
            reward=self.reward.value,
            outcome=self.reward.outcome,
            tokens=len(self.sample.ids),
            is_finished=self.sample.is_finished,
        )


def advantages(answers: Sequence[Answer], recipe: RlRecipe) -> Tensor:
    """Return the advantage of each answer, float64, with long ones punished where it is asked for.

    Args:
        answers: whole groups.
        recipe: of the stage.
    """
    rewards = torch.tensor([answer.reward.value for answer in answers], dtype=torch.float64)
    if recipe.truncated_answers.value == "punish":
        for number, answer in enumerate(answers):
            rewards[number] += overlong_punishment(
                torch.tensor(len(answer.sample.ids)),
                limit=recipe.sequence_length.value - len(answer.prompt_ids),
                buffer=recipe.overlong_buffer.value,
            )
    groups = torch.tensor([answer.draw for answer in answers])
    return group_advantages(rewards, groups, recipe.advantage_epsilon.value)


def trained_tokens(answer: Answer, recipe: RlRecipe) -> int:
    """Return how many tokens of an answer the loss counts: all, or of a masked answer none."""
    is_masked = recipe.truncated_answers.value == "mask" and not answer.sample.is_finished
    return 0 if is_masked else len(answer.sample.ids)


@dataclass(frozen=True)
class AnswerRow(PackedBatch):
    """A micro-batch of prompts with their answers, one after the other in a row.

    Attributes:
        known: of the answers' tokens, in the row's order; None to look at the answers only.
    """

    known: AnswerTokens | None = None


@dataclass(frozen=True)
class Rows:
    """A step's rows of a rank.

    Attributes:
        rows: all of one length, without what is known of their tokens.
        answers: of each row the numbers of its answers.
        padding: share of the rows' tokens that are pads.
    """

    rows: list[AnswerRow]
    answers: list[list[int]]
    padding: float


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of each row's answer tokens.

    Attributes:
        policy, reference: by these models, in the trainer.
        engine: by the engine that drew the answers.
        entropies: of the policy, in nats.
    """

    policy: list[Tensor]
    reference: list[Tensor]
    engine: list[Tensor]
    entropies: list[Tensor]

    def sums(self) -> Tensor:
        """Return sums over the tokens, float64: their number, the divergence from the reference,
        the entropy, and of what the engine differs by the absolute value and the divergence.
        """
        if not self.policy:
            return torch.zeros(5, dtype=torch.float64)
        policy = torch.cat(self.policy).double()
        reference = torch.cat(self.reference).double()
        engine = torch.cat(self.engine).double()
        values = [
            torch.ones_like(policy),
            kl_estimate(policy, reference, policy, "k3"),
            torch.cat(self.entropies).double(),
            (policy - engine).abs(),
            kl_estimate(engine, policy, engine, "k3"),
        ]
        return torch.stack(values).sum(dim=1)


def lay_rows(answers: Sequence[Answer], capacity: int, multiple: int) -> Rows:
    """Lay prompts and answers into rows.

    Args:
        answers: of this rank.
        capacity: tokens that a row may have.
        multiple: of which a row's length is one.
    """
    sequences = [_sequence(answer) for answer in answers]
    numbers = balanced_rows([len(sequence.ids) for sequence in sequences], capacity)
    joined = [_joined([sequences[number] for number in row]) for row in numbers]
    longest = max(len(row.ids) for row in joined)
    length = -(-longest // multiple) * multiple
    rows = [AnswerRow(**vars(collate([row], length))) for row in joined]
    tokens = sum(len(row.ids) for row in joined)
    return Rows(rows, numbers, padding=1 - tokens / (length * len(rows)))


def _sequence(answer: Answer) -> PackedSequence:
    ids = np.concatenate([answer.prompt_ids, answer.sample.ids])
    is_answer = np.arange(len(ids)) >= len(answer.prompt_ids)
    return PackedSequence(ids, is_answer, np.array([0, len(ids)]))


def _joined(sequences: Sequence[PackedSequence]) -> PackedSequence:
    lengths = [len(sequence.ids) for sequence in sequences]
    return PackedSequence(
        ids=np.concatenate([sequence.ids for sequence in sequences]),
        loss_mask=np.concatenate([sequence.loss_mask for sequence in sequences]),
        cumulative_lengths=np.concatenate([[0], np.cumsum(lengths)]),
    )


def with_known(
    laid: Rows,
    answers: Sequence[Answer],
    scores: Scores,
    advantages: Tensor,
    weights: Tensor,
    importance_cap: float,
) -> list[AnswerRow]:
    """Return the rows with what is known of their answers' tokens.

    Args:
        laid: of :func:`lay_rows`.
        answers: of this rank.
        scores: of the rows.
        advantages: of each answer.
        weights: of each answer's tokens.
        importance_cap: of truncated importance sampling; 0 leaves it out.
    """
    rows = []
    for number, own in enumerate(laid.answers):
        counts = torch.tensor([len(answers[answer].sample.ids) for answer in own])
        old = scores.policy[number]
        importance = None
        if importance_cap:
            importance = truncated_importance(old, scores.engine[number], importance_cap)
        known = AnswerTokens(
            old=old,
            reference=scores.reference[number],
            advantages=advantages[own].float().repeat_interleave(counts),
            weights=weights[own].float().repeat_interleave(counts),
            importance=importance,
        )
        rows.append(replace(laid.rows[number], known=known))
    return rows


def engine_scores(laid: Rows, answers: Sequence[Answer]) -> list[Tensor]:
    """Return of each row its answers' log-probabilities by the engine that drew them."""
    scores = []
    for own in laid.answers:
        values = [answers[number].sample.log_probabilities for number in own]
        scores.append(torch.from_numpy(np.concatenate(values)))
    return scores
