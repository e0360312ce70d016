"""The policy: Granite as NeMo-Aligner's actor of REINFORCE, trained on packed answers."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from omegaconf import DictConfig
from torch import Tensor

from recipes.alignment.model import AlignedGranite, build_model, sum_over_batch
from recipes.alignment.rl.experience import AnswerRow
from recipes.alignment.rl.loss import AnswerTokens, Objective, clipped_shares, dapo_loss
from recipes.compat import nemo_aligner_rl
from recipes.spec.rl import RlRecipe

nemo_aligner_rl.install()

from nemo_aligner.models.nlp.gpt.megatron_gpt_reinforce_actor import (  # noqa: E402
    MegatronGPTReinforceActorModel,
)


class GranitePolicy(AlignedGranite, MegatronGPTReinforceActorModel):
    """A policy in training, or frozen the reference policy.

    Of Aligner's actor it has what surrounds a step. Its loss is another, its log-probabilities are
    of packed rows and of the temperature of the rollouts, its reference is a model of its own, and
    it does not generate.

    Attributes:
        objective: what is minimized.
        temperature: that logits are divided by.
    """

    objective: Objective
    temperature: float

    def __init__(self, cfg: DictConfig, trainer: Trainer) -> None:
        # Aligner's actor asks for the settings of its own generation
        cfg.reinforce = {
            "length_params": {},
            "sampling_params": {},
            "forward_micro_batch_size": 1,
            "offload_adam_states": False,
        }
        super().__init__(cfg, trainer)

    def forward_step(self, micro_batches: Iterator[Any], model: torch.nn.Module) -> Any:
        """Return the logits of a row, [1, tokens, vocabulary / TP], and the function of its loss.

        The loss returns with it the ``log_probabilities`` of the answers' tokens, and where nothing
        else is known of them their ``entropies``.
        """
        row = next(micro_batches)
        batch = row.to(torch.cuda.current_device())
        logits = model(
            batch.tokens,
            batch.position_ids,
            None,
            labels=None,
            packed_seq_params=batch.packed_seq_params,
        )
        # the weights of the tokens make the sum a mean: nothing is left to divide by
        no_tokens = torch.tensor(0, dtype=torch.int, device=batch.tokens.device)

        def loss(logits: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            # only what predicts an answer's token
            answers = logits[batch.loss_mask].float() / self.temperature
            result = {}
            if row.known is None:
                result["entropies"] = _entropies(answers).cpu()
            found = _log_probabilities(answers, batch.labels[batch.loss_mask])
            result["log_probabilities"] = found.detach().cpu()
            value = found.sum()
            if row.known is not None:
                value = dapo_loss(found, row.known.to(found.device), self.objective)
                result["loss"] = value.detach().cpu()
            return value, no_tokens, result

        return logits, loss

    @torch.no_grad()
    def score(self, rows: Sequence[AnswerRow]) -> list[dict[str, Tensor]]:
        """Return ``log_probabilities`` and ``entropies`` of each row's answer tokens, on the CPU.

        The same computation as in training, so that the ratio of an unchanged policy is exactly 1.
        Empty on all pipeline stages but the last.
        """
        return self.run_schedule(rows, forward_only=True)

    def get_loss_and_metrics(
        self, batch: dict[str, Any], forward_only: bool
    ) -> tuple[float, dict[str, float]]:
        """Run this rank's rows of the global batch, ``batch["rows"]``.

        Returns:
            The loss of the global batch, and of its ``trained_tokens`` (their number) the shares
            that are clipped, ``clip_low`` and ``clip_high``, and whose log-probability is not that
            of :meth:`score` to the bit, ``off_policy``; the same on all ranks.
        """
        rows: Sequence[AnswerRow] = batch["rows"]
        results = self.run_schedule(rows, forward_only)
        sums = torch.zeros(5, dtype=torch.float64)
        # on the last pipeline stage, which alone has results
        known = [row.known for row in rows if row.known]
        for tokens, result in zip(known, results, strict=True):
            sums += self._sums(tokens, result)
        loss, trained, low, high, changed = sum_over_batch(sums).tolist()
        count = max(trained, 1.0)
        metrics = {
            "trained_tokens": trained,
            "clip_low": low / count,
            "clip_high": high / count,
            "off_policy": changed / count,
        }
        return loss, metrics

    def _sums(self, known: AnswerTokens, result: dict[str, Tensor]) -> Tensor:
        found = result["log_probabilities"]
        trained = known.weights > 0
        low, high = clipped_shares(found, known, self.objective)
        changed = (found != known.old) & trained
        counts = [trained.sum(), low.sum(), high.sum(), changed.sum()]
        return torch.stack([result["loss"], *counts]).double()


def build_policy(recipe: RlRecipe) -> GranitePolicy:
    """Build the policy, or the reference policy, of a stage with random weights."""
    policy = build_model(GranitePolicy, recipe, recipe.train_batch_size.value)
    policy.temperature = recipe.temperature.value
    policy.objective = Objective(
        clip_ratio_low=recipe.clip_ratio_low.value,
        clip_ratio_high=recipe.clip_ratio_high.value,
        kl_beta=recipe.kl_beta.value,
        kl_estimator=recipe.kl_estimator.value,
    )
    return policy


def _log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities of ``ids``: [tokens, vocabulary / TP] to [tokens]."""
    # it changes its argument, which nothing else needs any more
    return -vocab_parallel_cross_entropy(logits, ids)


@torch.no_grad()
def _entropies(logits: Tensor) -> Tensor:
    """Return the entropies in nats: [tokens, vocabulary / TP] to [tokens]."""
    group = parallel_state.get_tensor_model_parallel_group()
    highest = logits.amax(dim=-1)
    torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX, group=group)
    shifted = logits - highest[:, None]
    weights = shifted.exp()
    sums = torch.stack([weights.sum(dim=-1), (weights * shifted).sum(dim=-1)])
    torch.distributed.all_reduce(sums, group=group)
    return sums[0].log() - sums[1] / sums[0]
