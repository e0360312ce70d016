"""Several weights of two parents: each merge is evaluated, and the best one that keeps its short
context is written.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoTokenizer, GraniteForCausalLM

from data_prep import documents
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.merging.merge import check_weights, write_merge
from recipes.merging.parents import open_parent
from recipes.model.bridge import hf_folder
from recipes.model.bridge.to_hf import export_hf

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


Evaluate = Callable[[Path], Score]


def parse_sweep(text: str) -> list[float]:
    """Return the second parent's weights of ``FIRST..LAST`` or ``FIRST..LAST:STEP``; the step is
    0.2 by default.

    Raises:
        UserError: not of this form, outside of [0, 1], or more than 100 weights.
    """
    span, _, step_text = text.partition(":")
    first_text, dots, last_text = span.partition("..")
    try:
        first, last = float(first_text), float(last_text)
        step = float(step_text) if step_text else _DEFAULT_STEP
        fits = dots and 0 <= first <= last <= 1 and step > 0 and (last - first) / step < _MOST
    except ValueError:
        fits = False
    if not fits:
        raise UserError(
            f"--sweep {text}: expected FIRST..LAST or FIRST..LAST:STEP between 0 and 1, as "
            "0.1..0.9:0.2"
        )
    # rounded, so that steps of 0.1 give the weights that one would write
    count = math.floor((last - first) / step + 1e-9) + 1
    return [round(first + number * step, 9) for number in range(count)]


def sweep(
    method: str,
    paths: Sequence[Path],
    candidates: Sequence[float],
    output: Path,
    evaluate: Evaluate,
    *,
    base: Path | None = None,
    bound: float = SHORT_LOSS_BOUND,
    say: Callable[[str], object] = print,
) -> None:
    """Evaluate the merges with the weights ``1 - w, w`` and write the picked one, with
    ``sweep.json`` in it.

    The pick has the lowest long-context loss of those whose short-context loss is at most ``1 +
    bound`` times that of the better parent; of equal ones the first.

    Args:
        method: as for :func:`recipes.merging.merge.merge`, like ``base``.
        paths: two parents.
        candidates: each w.
        output: new folder.
        evaluate: called with a Hugging Face folder of each parent and of each merge.
        bound: part of the short-context loss that may be lost.
        say: called with a line for each row.

    Raises:
        UserError: what ``merge`` refuses, other than two parents, or no merge keeps the bound.
    """
    if len(paths) != 2:
        raise UserError(
            f"--parents: {len(paths)} given, but a sweep is over the weights of exactly two"
        )
    pairs = [(round(1 - weight, 9), weight) for weight in candidates]
    for pair in pairs:
        check_weights(method, 2, pair, base)
    with atomic_directory(output) as temporary:
        rows: list[dict[str, Any]] = []

        def score(name: dict[str, Any], checkpoint: Path) -> None:
            hf, scratch = checkpoint, temporary / "exported"
            if not (checkpoint / hf_folder.CONFIG).is_file():
                export_hf(checkpoint, scratch, say=lambda line: None)
                hf = scratch
            found = evaluate(hf)
            shutil.rmtree(scratch, ignore_errors=True)
            if not (math.isfinite(found.short) and math.isfinite(found.long)):
                raise UserError(
                    f"{checkpoint}: its losses are {found.short} and {found.long}; look at its "
                    "training"
                )
            rows.append({**name, **asdict(found)})
            say(" ".join(f"{key}={value}" for key, value in rows[-1].items()))

        for path in paths:
            score({"parent": str(path)}, open_parent(path).location)
        limit = (1 + bound) * min(row["short"] for row in rows)
        for pair in pairs:
            candidate = temporary / "candidate"
            candidate.mkdir()
            write_merge(method, paths, pair, candidate, base=base, say=lambda line: None)
            score({"weights": list(pair)}, candidate)
            shutil.rmtree(candidate)
        kept = [row for row in rows if "weights" in row and row["short"] <= limit]
        if not kept:
            lowest = min(row["short"] for row in rows if "weights" in row)
            raise UserError(
                f"no merge keeps the short-context loss within {limit:.4f}, the lowest has "
                f"{lowest:.4f}; sweep nearer to the better parent or try another method"
            )
        pick = min(kept, key=lambda row: row["long"])
        write_merge(method, paths, pick["weights"], temporary, base=base, say=say)
        found = {
            "rule": "lowest long loss of the merges whose short loss is at most short_limit",
            "unit": "nats per token",
            "short_limit": limit,
            "bound": bound,
            "pick": pick["weights"],
            "rows": rows,
        }
        (temporary / SWEEP).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def text_evaluation(short: Path, long: Path) -> Evaluate:
    """Return an evaluation through transformers: cross-entropy on a file of short and one of long
    documents.

    The short loss is over the first 4,096 tokens of each document, the long one over the last
    quarter of each: of as much of it as the model has positions for. Both are means over tokens.

    Args:
        short: JSON lines with a field ``text``, or a text file, which is one document.
        long: the same.

    Raises:
        UserError: a file is not there, damaged or empty.
    """
    texts = [_read(path) for path in (short, long)]

    def evaluate(folder: Path) -> Score:
        config = hf_folder.read_config(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = GraniteForCausalLM.from_pretrained(
            folder, torch_dtype="auto", local_files_only=True
        ).eval()
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        limit = config["max_position_embeddings"]
        losses = []
        for path, found, length, part in zip(
            (short, long), texts, (min(SHORT_LENGTH, limit), limit), (1.0, 0.25), strict=True
        ):
            total = tokens = 0.0
            for text in found:
                ids = tokenizer(text, add_special_tokens=False)["input_ids"][:length]
                summed, count = _loss(model, ids, max(1, len(ids) - int(part * len(ids))))
                total, tokens = total + summed, tokens + count
            if not tokens:
                raise UserError(
                    f"{path}: no document has enough tokens to predict one; give longer texts"
                )
            losses.append(total / tokens)
        return Score(*losses)

    return evaluate


@torch.inference_mode()
def _loss(model: GraniteForCausalLM, ids: list[int], first: int) -> tuple[float, int]:
    """Return the summed cross-entropy of ``ids[first:]`` in nats, each given all before it, and
    their number.
    """
    if len(ids) <= first:
        return 0.0, 0
    tokens = torch.tensor(ids, device=model.device)
    hidden = model.model(tokens[None, :-1]).last_hidden_state[0]
    total = 0.0
    # the logits of a long document would not fit into memory at once
    for start in range(first, len(ids), _LOGITS_ROWS):
        stop = min(start + _LOGITS_ROWS, len(ids))
        logits = model.lm_head(hidden[start - 1 : stop - 1]).float() / model.config.logits_scaling
        total += functional.cross_entropy(logits, tokens[start:stop], reduction="sum").item()
    return total, len(ids) - first


def _read(path: Path) -> list[str]:
    parts = documents.split_inputs([str(path)], 2**62)
    texts = [document.text for part in parts for document in documents.read(part, "text")]
    if not any(texts):
        raise UserError(f"{path}: no text in it; give JSON lines with a field text, or a text file")
    return texts
