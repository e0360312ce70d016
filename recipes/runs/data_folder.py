"""A folder of prepared data: its manifest, and a recipe's mixture as weights of the data in it."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError, nearest
from recipes.common.json_files import read_record, write_record
from recipes.spec.pretraining import PretrainRecipe

MANIFEST = "manifest.json"
UNIGRAM_COUNTS = "unigram_counts.json"
TOKENIZER = "tokenizer"
# Megatron trains on rows in multiples of this
_VOCABULARY_MULTIPLE = 128

# component of a recipe's mixture -> prepared component that replaces it at size tiny
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


@dataclass(frozen=True)
class DataShard:
    """A pair of Megatron's files.

    Attributes:
        prefix: path of the .bin and .idx file without these endings, relative to the data folder.
        documents: in the shard.
        tokens: in the shard, with the end of each document.
        bytes: of text, in UTF-8.
        bin_sha256, idx_sha256: of the two files.
        share: of the component's tokens; None where they are read in proportion to their number.
    """

    prefix: str
    documents: int
    tokens: int
    bytes: int
    bin_sha256: str
    idx_sha256: str
    share: float | None = None


@dataclass(frozen=True)
class DataComponent:
    """A component of the mixture.

    Attributes:
        shards: its files.
        documents, tokens, bytes: sums over the shards.
        licenses: license -> documents.
        sources: input -> documents, where it was tokenized from files.
        left_out: reason -> documents.
        packed_tokens: the longest document that was packed from several files; 0 where none was.
        unigram_entropy: in nats per token; None where it was not computed.
    """

    shards: list[DataShard]
    documents: int
    tokens: int
    bytes: int
    licenses: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    packed_tokens: int = 0
    unigram_entropy: float | None = None


@dataclass(frozen=True)
class DataTokenizer:
    """The tokenizer that encoded the data.

    Attributes:
        folder: relative to the data folder.
        vocab_size: the highest id plus one.
        fingerprint: of :class:`recipes.common.tokenizer_files.TokenizerFolder`.
    """

    folder: str
    vocab_size: int
    fingerprint: str


@dataclass(frozen=True)
class DataManifest:
    """The manifest of a data folder, which is written last.

    Attributes:
        components: name -> component.
        tokenizer: that encoded all of them.
        inputs: settings of the preparation, which recognizes finished data by them.
    """

    components: dict[str, DataComponent]
    tokenizer: DataTokenizer
    inputs: dict[str, Any] = field(default_factory=dict)

    def shards(self) -> dict[str, tuple[str, DataShard]]:
        """Return prefix -> (component, shard)."""
        return {
            shard.prefix: (name, shard)
            for name, component in self.components.items()
            for shard in component.shards
        }

    def write(self, folder: Path) -> None:
        """Write the manifest into ``folder``, whole or not at all."""
        write_record(folder / MANIFEST, self)


def read_data_manifest(data: Path) -> DataManifest:
    """Return the manifest of prepared data.

    Raises:
        UserError: there is none, or it is damaged.
    """
    remedy = f"prepare data with `granite41 data tiny --output {data}` or `granite41 data assemble`"
    return read_record(DataManifest, data / MANIFEST, remedy)


def component_weights(
    manifest: DataManifest, mixture_percent: Mapping[str, float]
) -> dict[str, float]:
    """Return prepared component -> its share of a recipe's tokens; the shares sum to 1.

    A component that was prepared under its own name is used; else the user's own text, else its
    stand-in at size tiny.

    Args:
        manifest: of a data folder.
        mixture_percent: component of the recipe -> percent of tokens; the sum is scaled to 1.

    Raises:
        UserError: a component has neither data nor a stand-in, or a weight is below 0 or no number.
    """
    weights = defaultdict[str, float](float)
    for name, percent in mixture_percent.items():
        if not (math.isfinite(percent) and percent >= 0):
            raise UserError(
                f"mixture: component {name!r} has weight {percent}, expected 0 or more; correct it"
            )
        # several components of a recipe may read the same data
        weights[_find_component(manifest, name)] += percent

    # published percentages may add up to 99.9 or 100.1
    total = sum(weights.values())
    if not total:
        raise UserError(
            f"mixture: every component has weight 0 ({', '.join(mixture_percent)}), "
            f"expected one above 0; set it"
        )
    return {name: weights[name] / total for name in sorted(weights) if weights[name]}


def _find_component(manifest: DataManifest, name: str) -> str:
    # its own data, the user's own text, or the stand-in of size tiny
    for candidate in (name, "text", STAND_INS.get(name)):
        if candidate in manifest.components:
            return candidate
    # the recipe's own components are no slips
    known = [] if name in STAND_INS else [*manifest.components, *STAND_INS]
    raise UserError(
        f"mixture: component {name!r} has no data among {', '.join(manifest.components)}"
        f"{nearest(name, known)}; prepare it, or take it out of the mixture"
    )


def blend(manifest: DataManifest, mixture_percent: Mapping[str, float]) -> list[tuple[float, Path]]:
    """Return (weight, prefix) of each shard that a recipe's mixture reads; the weights sum to 1.

    The weight of a component is divided over its shards by their ``share`` where its sources have
    weights of their own, else by their tokens, so that all come to an end together.

    Args:
        manifest: of a data folder; the prefixes are relative to the folder.
        mixture_percent: component of the recipe -> percent of tokens.

    Raises:
        UserError: as :func:`component_weights`, or a component without tokens.
    """
    # prefixes stay relative, so that the folder can be moved
    blended = []
    for name, weight in component_weights(manifest, mixture_percent).items():
        component = manifest.components[name]
        tokens = sum(shard.tokens for shard in component.shards)
        if not tokens:
            raise UserError(
                f"mixture: component {name!r} holds no token, expected text; prepare it again"
            )
        # a shard's share of its component, by weight of its source or by its tokens
        for shard in component.shards:
            share = shard.tokens / tokens if shard.share is None else shard.share
            if share:
                blended.append((weight * share, Path(shard.prefix)))
    return blended


def check_manifest(data: Path, manifest: DataManifest, recipe: PretrainRecipe) -> None:
    """Check by the manifest alone that a stage can train on a data folder.

    Raises:
        UserError: a component of the mixture has no data or too few documents, a tokenizer with
            more tokens than the model has rows, or documents that were packed for longer sequences.
    """
    check_vocabulary(
        data / manifest.tokenizer.folder,
        manifest.tokenizer.vocab_size,
        recipe,
    )
    check_packing(
        data,
        manifest,
        recipe.mixture_percent,
        recipe.stage,
        recipe.sequence_length.value,
    )
    prefixes = [str(prefix) for _, prefix in blend(manifest, recipe.mixture_percent)]
    check_documents(data, manifest, prefixes, recipe.split.value)


def check_vocabulary(tokenizer: Path, tokens: int, recipe: PretrainRecipe) -> None:
    """Raise UserError where a tokenizer has ids beyond the rows of the model's vocabulary.

    Args:
        tokenizer: its folder, for the sentence.
        tokens: its highest id plus one.
        recipe: of a stage that trains with it.
    """
    rows = recipe.model.vocab_size.value
    if tokens > rows:
        enough = math.ceil(tokens / _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
        raise UserError(
            f"{tokenizer}: the tokenizer has ids up to {tokens - 1:,} but the model only "
            f"{rows:,} rows; use the tokenizer of the model, or set model.vocab_size={enough}"
        )


def check_documents(
    data: Path, manifest: DataManifest, prefixes: Sequence[str], split: str
) -> None:
    """Raise UserError where a part of the split has no document.

    Megatron would count epochs for ever.
    """
    shards = manifest.shards()
    # weights of training, validation and test
    parts = [float(part) for part in split.split(",")]
    training, validation, *_ = (part / sum(parts) for part in parts)
    for prefix in prefixes:
        _, shard = shards[prefix]
        if any(0 < share * shard.documents < 1 for share in (training, validation)):
            raise UserError(
                f"{data / prefix}: {shard.documents} documents are too few for the split {split} "
                f"into training and validation; prepare more text, or raise the smaller share with "
                f"split=..."
            )


def check_packing(
    data: Path,
    manifest: DataManifest,
    mixture_percent: Mapping[str, float],
    stage: str,
    sequence_length: int,
) -> None:
    """Raise where a component was packed for longer sequences than a stage's, which would cut it.

    Args:
        data: the data folder.
        manifest: its manifest.
        mixture_percent: component of the recipe -> percent of tokens.
        stage: its name, for the message.
        sequence_length: of the stage, in tokens.

    Raises:
        UserError: as :func:`component_weights`, or such a component.
    """
    for name in component_weights(manifest, mixture_percent):
        # zero where documents were not packed
        packed = manifest.components[name].packed_tokens
        if packed > sequence_length:
            raise UserError(
                f"{data}: component {name!r} was packed for {packed:,} tokens, but {stage} reads "
                f"{sequence_length:,} at a time and would cut its documents; pack it again with "
                f"`granite41 data repositories --max-tokens {sequence_length}`, or train a stage "
                f"of at least {packed:,} tokens"
            )
