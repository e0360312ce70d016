"""Sweep over the weights of two parents: each merge is evaluated, and the best one is written."""

import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.common.json_files import write_json
from recipes.common.tokenizer_files import TokenizerFolder
from recipes.merging.merge import check_weights, write_merge
from recipes.merging.parents import open_parent
from recipes.model.bridge.to_hf import export_hf
from recipes.model.transformers_model import load_model, load_tokenizer
from recipes.model_folder.config import CONFIG
from recipes.model_folder.weights import open_granite

log = logging.getLogger(__name__)

SWEEP = "sweep.json"
# assumed: a merge may lose this part of the better parent's short-context loss
SHORT_LOSS_BOUND = 0.01
# the sequence length of the short stages
SHORT_LENGTH = 4096
_DEFAULT_STEP = 0.2
_MOST = 100
_LOGITS_ROWS = 1024


@dataclass(frozen=True)
class Score:
    """Losses of a model, in nats per token; lower is better."""

    short: float
    long: float


@dataclass(frozen=True)
class Texts:
    """Documents that losses are measured on.

    Attributes:
        name: of their file, for the sentence of an error.
        documents: the texts.
    """

    name: str
    documents: Sequence[str]


Evaluate = Callable[[Path], Score]


def parse_sweep(text: str) -> list[float]:
    """Return the second parent's weights of ``FIRST..LAST`` or ``FIRST..LAST:STEP``; the step is
    0.2 by default.

    Raises:
        UserError: not of this form, outside of [0, 1], or more than 100 weights.
    """
    span, _, step_text = text.partition(":")
    first_text, _, last_text = span.partition("..")
    try:
        first = float(first_text)
        last = float(last_text)
        step = float(step_text or _DEFAULT_STEP)
        is_valid = 0 <= first <= last <= 1 and step > 0
        is_valid = is_valid and (last - first) / step < _MOST
    except ValueError:
        is_valid = False
    if not is_valid:
        raise UserError(
            f"--sweep {text}: expected FIRST..LAST or FIRST..LAST:STEP between 0 and 1, as "
            "0.1..0.9:0.2"
        )
    # rounded, so that steps of 0.1 give the weights that one would write
    steps = math.floor((last - first) / step + 1e-9)
    weights = []
    for number in range(steps + 1):
        weight = first + number * step
        weights.append(round(weight, 9))
    return weights


def sweep(
    method: str,
    paths: Sequence[Path],
    candidates: Sequence[float],
    output: Path,
    evaluate: Evaluate,
    *,
    base: Path | None = None,
    bound: float = SHORT_LOSS_BOUND,
) -> None:
    """Evaluate merges with the weights ``1 - w, w``; write the pick, with ``sweep.json`` in it.

    The pick has the lowest long-context loss of those whose short-context loss is at most
    ``1 + bound`` times that of the better parent; of equal ones the first.

    Args:
        method: as for :func:`recipes.merging.merge.merge`, like ``base``.
        paths: two parents.
        candidates: each w.
        output: new folder.
        evaluate: called with a Hugging Face folder of each parent and of each merge.
        bound: share of the short-context loss that may be lost.

    Raises:
        UserError: what ``merge`` refuses, other than two parents, or no merge keeps the bound.
    """
    pairs = _weight_pairs(method, paths, candidates, base)
    with atomic_directory(output) as temporary:
        # the parents' losses bound those of the merges
        parent_rows = []
        for path in paths:
            location = open_parent(path).location
            row = _score({"parent": str(path)}, location, evaluate, temporary)
            parent_rows.append(row)

        # one candidate at a time is on the disk; the pick is merged once more
        merge_rows = []
        candidate = temporary / "candidate"
        for pair in pairs:
            candidate.mkdir()
            write_merge(method, paths, pair, candidate, base=base)
            row = _score({"weights": list(pair)}, candidate, evaluate, temporary)
            merge_rows.append(row)
            shutil.rmtree(candidate)

        better = min(row["short"] for row in parent_rows)
        limit = (1 + bound) * better
        pick = _pick(merge_rows, limit)["weights"]
        write_merge(method, paths, pick, temporary, base=base)
        result = {
            "rule": "lowest long loss of the merges whose short loss is at most short_limit",
            "unit": "nats per token",
            "short_limit": limit,
            "bound": bound,
            "pick": pick,
            "rows": parent_rows + merge_rows,
        }
        write_json(temporary / SWEEP, result)


def _weight_pairs(
    method: str,
    paths: Sequence[Path],
    candidates: Sequence[float],
    base: Path | None,
) -> list[tuple[float, float]]:
    """Return both parents' weights for each candidate, checked before anything is evaluated."""
    if len(paths) != 2:
        raise UserError(
            f"--parents: {len(paths)} given, but a sweep is over the weights of exactly two"
        )
    pairs = []
    for weight in candidates:
        pair = round(1 - weight, 9), weight
        check_weights(method, len(paths), pair, base)
        pairs.append(pair)
    return pairs


def _score(
    row: dict[str, Any],
    checkpoint: Path,
    evaluate: Evaluate,
    scratch: Path,
) -> dict[str, Any]:
    """Return ``row`` with a checkpoint's losses, and log it.

    A NeMo checkpoint is exported to a folder in ``scratch``.
    """
    # transformers evaluates, and it reads no NeMo checkpoint
    folder = checkpoint
    exported = scratch / "exported"
    if not (checkpoint / CONFIG).is_file():
        export_hf(checkpoint, exported)
        folder = exported
    score = evaluate(folder)
    shutil.rmtree(exported, ignore_errors=True)

    is_finite = math.isfinite(score.short) and math.isfinite(score.long)
    if not is_finite:
        raise UserError(
            f"{checkpoint}: its losses are {score.short} and {score.long}; look at its training"
        )
    scored = row | asdict(score)
    words = [f"{key}={value}" for key, value in scored.items()]
    log.info("%s", " ".join(words))
    return scored


def _pick(rows: Sequence[dict[str, Any]], limit: float) -> dict[str, Any]:
    """Return the row with the lowest long loss of those whose short loss is within ``limit``."""
    within = [row for row in rows if row["short"] <= limit]
    if not within:
        lowest = min(row["short"] for row in rows)
        raise UserError(
            f"no merge keeps the short-context loss within {limit:.4f}, the lowest has "
            f"{lowest:.4f}; sweep nearer to the better parent or try another method"
        )
    return min(within, key=lambda row: row["long"])


def text_evaluation(short: Texts, long: Texts) -> Evaluate:
    """Return an evaluation through transformers: cross-entropy on short and on long documents.

    The short loss is over the first 4,096 tokens of each document, the long one over the last
    quarter of each: of as much of it as the model has positions for. Both are means over tokens.
    """

    def evaluate(folder: Path) -> Score:
        opened = open_granite(folder)
        config = opened.config
        tokenizer_files = TokenizerFolder(folder)
        tokenizer_files.check_library_ids()
        tokenizer = load_tokenizer(tokenizer_files, config.vocab_size)
        model = load_model(opened)

        # texts longer than the model's positions are cut
        positions = config.max_position_embeddings
        return Score(
            short=_mean_loss(
                model,
                tokenizer,
                short,
                length=min(SHORT_LENGTH, positions),
                share=1.0,
            ),
            long=_mean_loss(
                model,
                tokenizer,
                long,
                length=positions,
                share=0.25,
            ),
        )

    return evaluate


def _mean_loss(
    model: Any,
    tokenizer: Any,
    texts: Texts,
    length: int,
    share: float,
) -> float:
    """Return the mean cross-entropy, in nats per token, over the last ``share`` of each document.

    Args:
        length: tokens that are read of a document.
    """
    total = 0.0
    tokens = 0
    for text in texts.documents:
        encoding = tokenizer(text, add_special_tokens=False)
        ids = encoding["input_ids"][:length]
        # nothing predicts the first token
        evaluated = int(share * len(ids))
        first = max(1, len(ids) - evaluated)
        loss, count = _loss(model, ids, first)
        total += loss
        tokens += count
    if not tokens:
        raise UserError(
            f"{texts.name}: no document has enough tokens to predict one; give longer texts"
        )
    return total / tokens


@torch.inference_mode()
def _loss(model: Any, ids: list[int], first: int) -> tuple[float, int]:
    """Return the summed cross-entropy of ``ids[first:]``, in nats, and their number.

    Each token is predicted from all before it.
    """
    if len(ids) <= first:
        return 0.0, 0
    tokens = torch.tensor(ids, device=model.device)
    # [tokens - 1, hidden size], of a batch of one
    outputs = model.model(tokens[None, :-1])
    hidden = outputs.last_hidden_state[0]

    total = 0.0
    # the logits of a long document would not fit into memory at once
    for start in range(first, len(ids), _LOGITS_ROWS):
        stop = min(start + _LOGITS_ROWS, len(ids))
        # position i - 1 predicts token i
        logits = model.lm_head(hidden[start - 1 : stop - 1])
        logits = logits.float() / model.config.logits_scaling
        loss = functional.cross_entropy(
            logits,
            tokens[start:stop],
            reduction="sum",
        )
        total += loss.item()
    return total, len(ids) - first
