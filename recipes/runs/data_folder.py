"""A data folder's layout, and what a recipe's mixture becomes with the components that it holds."""

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError, nearest

MANIFEST = "manifest.json"
UNIGRAM_COUNTS = "unigram_counts.json"
TOKENIZER = "tokenizer"

# Component of a recipe's mixture -> prepared component that stands in for it at size tiny.
STAND_INS = {
    "common_crawl": "documentation",
    "common_crawl_hq": "documentation",
    "code": "code",
    "math": "documentation",
    "technical": "documentation",
    "multilingual": "documentation",
    "domain": "documentation",
    "synthetic": "documentation",
    "long_cot": "documentation",
    "language_instruction": "documentation",
    "code_instruction": "code",
    "books": "documentation",
    "code_repositories": "code",
}


def component_weights(
    manifest: Mapping[str, Any], mixture_percent: Mapping[str, float]
) -> dict[str, float]:
    """Return prepared component -> its share of the tokens that a recipe's mixture asks for; the shares sum to 1.

    A component that was prepared under its own name is used; else the user's own text, else its stand-in at size tiny.

    Args:
        manifest: of a data folder.
        mixture_percent: component of the recipe -> percent of tokens; a sum near 100 is scaled to 1.

    Raises:
        UserError: a component of the mixture has neither data nor a stand-in, or a weight that is none.
    """
    components = manifest["components"]
    weights = defaultdict[str, float](float)
    for name, percent in mixture_percent.items():
        if not (math.isfinite(percent) and percent >= 0):
            raise UserError(
                f"mixture: component {name!r} has weight {percent}, expected 0 or more; correct it"
            )
        found = [
            choice for choice in (name, "text", STAND_INS.get(name, "")) if choice in components
        ]
        if not found:
            raise UserError(
                f"mixture: component {name!r} has no data among {', '.join(components)}{nearest(name, STAND_INS)}; "
                f"prepare it, or take it out of the mixture"
            )
        weights[found[0]] += percent
    total = sum(weights.values())
    if not total:
        raise UserError(
            f"mixture: every component has weight 0 ({', '.join(mixture_percent)}), expected one above 0; set it"
        )
    return {name: weights[name] / total for name in sorted(weights) if weights[name]}


def blend(
    manifest: Mapping[str, Any], mixture_percent: Mapping[str, float]
) -> list[tuple[float, Path]]:
    """Return what a recipe's mixture becomes with prepared data: (weight, prefix of .bin and .idx), weights sum to 1.

    A component's weight is divided over its shards by their ``share`` where its sources have weights of their own, else
    by their tokens, so that all come to an end together.

    Args:
        manifest: of a data folder; the prefixes are relative to the folder, as they are in it.
        mixture_percent: component of the recipe -> percent of tokens.

    Raises:
        UserError: as :func:`component_weights`, or a component without tokens.
    """
    blended = []
    for name, weight in component_weights(manifest, mixture_percent).items():
        shards = manifest["components"][name]["shards"]
        tokens = sum(shard["tokens"] for shard in shards)
        if not tokens:
            raise UserError(
                f"mixture: component {name!r} holds no token, expected text; prepare it again"
            )
        shares = {shard["prefix"]: shard.get("share", shard["tokens"] / tokens) for shard in shards}
        blended += [(weight * share, Path(prefix)) for prefix, share in shares.items() if share]
    return blended


def check_packing(
    data: Path,
    manifest: Mapping[str, Any],
    mixture_percent: Mapping[str, float],
    stage: str,
    sequence_length: int,
) -> None:
    """Raise where a component of the mixture was packed for longer sequences than the stage's, which would cut them.

    Args:
        data: the data folder.
        manifest: its.
        mixture_percent: component of the recipe -> percent of tokens.
        stage: for the sentence.
        sequence_length: of the stage, in tokens.

    Raises:
        UserError: as :func:`component_weights`, or such a component.
    """
    for name in component_weights(manifest, mixture_percent):
        packed = manifest["components"][name].get("packed_tokens", 0)
        if packed > sequence_length:
            raise UserError(
                f"{data}: component {name!r} was packed for {packed:,} tokens, but {stage} reads {sequence_length:,} "
                f"at a time and would cut its documents; pack it again with `granite41 data repositories --max-tokens "
                f"{sequence_length}`, or train a stage of at least {packed:,} tokens"
            )
