"""The engine in the trainer's own process: the model that is trained also generates."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from recipes.alignment.rollout.decoder import Decoder, Prefilled, require_whole_layers
from recipes.alignment.rollout.drawing import draw, uniforms
from recipes.alignment.rollout.engine import Request, Sample, check_requests
from recipes.common.errors import UserError

ROWS = 64


@dataclass(eq=False)
class _Answer:
    """An answer that is being generated; ``sample`` is its number among those to its request."""

    request: Request
    sample: int
    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    is_finished: bool = False

    @cached_property
    def uniforms(self) -> np.ndarray:
        """A number for each token that may be drawn."""
        return uniforms(self.request.draw_seed(self.sample), self.request.max_tokens)

    @property
    def length(self) -> int:
        """Tokens of the prompt and the answer."""
        return len(self.request.ids) + len(self.ids)


class InProcessEngine:
    """Generates with a Megatron Granite model, which it shares with the trainer.

    A fixed number of rows is decoded together. A prompt is read once for all of its answers, and
    as soon as an answer ends its row is given to the next one. The model may be split over
    tensor-parallel ranks, which then all generate the same.
    """

    def __init__(self, model: GPTModel, stop_ids: Sequence[int], rows: int = ROWS) -> None:
        """Take the model as it is; nothing is copied.

        Args:
            model: without Megatron's and NeMo's wrappers.
            stop_ids: an answer ends with the first of these tokens.
            rows: answers that are decoded together; each takes the memory of its keys and values.

        Raises:
            UserError: the model is split in a way that is not decoded.
        """
        require_whole_layers(model)
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        self._rows = rows
        self._version: int | None = None

    def refresh(self, version: int) -> None:
        """Call the weights, which are the trainer's own, ``version``."""
        self._version = version

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """See :class:`recipes.alignment.rollout.engine.Engine`."""
        if self._version is None:
            raise RuntimeError("generate comes after refresh")
        check_requests(requests, self._model.max_sequence_length)
        if not requests:
            return []
        with _evaluating(self._model):
            return _Batch(self._model, requests, self._rows, self._stop_ids, self._version).run()

    def close(self) -> None:
        """Nothing is held between two calls."""


class _Batch:
    """The answers to some requests, on rows that are given from one to the next."""

    def __init__(
        self,
        model: GPTModel,
        requests: Sequence[Request],
        rows: int,
        stop_ids: frozenset[int],
        version: int,
    ) -> None:
        self._stop_ids = stop_ids
        self._version = version
        self._answers = [
            [_Answer(request, sample) for sample in range(request.samples)] for request in requests
        ]
        self._waiting = deque(answer for answers in self._answers for answer in answers)
        self._rows: list[_Answer | None] = [None] * min(rows, len(self._waiting))

        length = max(len(request.ids) + request.max_tokens for request in requests)
        self._decoder = Decoder(model, len(self._rows), length)
        self._device = model.embedding.word_embeddings.weight.device
        # of the next token of each row
        self._logits = torch.zeros(0)
        # the answers to a prompt are admitted one after the other
        self._prompt: tuple[Request, Prefilled] | None = None

    def run(self) -> list[list[Sample]]:
        """Return the answers to each request."""
        self._admit()
        while any(self._rows):
            ids = self._append_tokens()
            if not self._waiting:
                ids = self._shrink(ids)
            lengths = [answer.length for answer in self._rows if answer]
            if lengths:
                self._logits = self._decoder.step(ids, max(lengths))
            self._admit()
        return [[self._sample(answer) for answer in answers] for answers in self._answers]

    def _admit(self) -> None:
        """Give the free rows to answers that wait."""
        for row, answer in enumerate(self._rows):
            if answer or not self._waiting:
                continue
            answer = self._waiting.popleft()
            prompt = self._prefill(answer.request)
            self._rows[row] = answer
            self._decoder.admit(row, prompt)
            if not len(self._logits):
                self._logits = prompt.logits.repeat(len(self._rows), 1)
            self._logits[row] = prompt.logits

    def _prefill(self, request: Request) -> Prefilled:
        if self._prompt is None or self._prompt[0] is not request:
            ids = torch.as_tensor(request.ids, dtype=torch.long, device=self._device)
            self._prompt = (request, self._decoder.prefill(ids))
        return self._prompt[1]

    def _append_tokens(self) -> Tensor:
        """Draw a token for each row, free the rows whose answers end, and return the tokens."""
        # what is drawn for a free row is not used
        temperatures = np.ones(len(self._rows), dtype=np.float32)
        numbers = np.zeros(len(self._rows))
        for row, answer in enumerate(self._rows):
            if answer:
                temperatures[row] = answer.request.temperature
                numbers[row] = answer.uniforms[len(answer.ids)]
        ids, log_probabilities = draw(
            self._logits,
            torch.from_numpy(temperatures).to(self._device),
            torch.from_numpy(numbers).to(self._device),
        )

        drawn = zip(ids.tolist(), log_probabilities.tolist(), strict=True)
        for row, (token, log_probability) in enumerate(drawn):
            answer = self._rows[row]
            if answer is None:
                continue
            if math.isnan(log_probability):
                raise UserError(
                    f"prompt {answer.request.prompt_id}: the policy's probabilities are no "
                    f"numbers, so training has diverged; resume from an earlier checkpoint with a "
                    f"lower learning rate"
                )
            answer.ids.append(token)
            answer.log_probabilities.append(log_probability)
            answer.is_finished = token in self._stop_ids
            if answer.is_finished or len(answer.ids) == answer.request.max_tokens:
                self._rows[row] = None
        return ids

    def _shrink(self, ids: Tensor) -> Tensor:
        """Give up the free rows once they are half of all, and return the tokens of the others."""
        kept = [row for row, answer in enumerate(self._rows) if answer]
        if not kept or 2 * len(kept) > len(self._rows):
            return ids
        self._rows = [self._rows[row] for row in kept]
        places = torch.tensor(kept, device=self._device)
        self._decoder.keep(places)
        return ids[places]

    def _sample(self, answer: _Answer) -> Sample:
        return Sample(
            ids=np.array(answer.ids, dtype=np.int32),
            log_probabilities=np.array(answer.log_probabilities, dtype=np.float32),
            is_finished=answer.is_finished,
            weight_version=self._version,
        )


@contextmanager
def _evaluating(model: GPTModel) -> Iterator[None]:
    """Turn dropout and gradients off, and the former on again.

    Not inference mode: Megatron keeps tensors that are made meanwhile, as rotary angles, and
    training could not use them.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
