"""Document lengths of prepared data in tokens, compared with a stage's sequence length."""

import json
import logging
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from data_prep import indexed
from recipes.common.errors import UserError
from recipes.common.json_files import read_json
from recipes.common.tables import print_table
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.data_folder import MANIFEST
from recipes.spec.origin import assumed

log = logging.getLogger(__name__)

LONG = assumed(
    Fraction(1, 8), "of the sequence length: shorter documents come more than eight to a sequence"
)
LEAST_SHARE = assumed(
    0.5, "of a component's tokens in long documents, below which most of a sequence is unrelated"
)
PERCENTILES = (10, 50, 90, 99)
AT_LEAST = (Fraction(1), Fraction(1, 2), Fraction(1, 4), Fraction(1, 8))
BELOW = Fraction(1, 32)
# characters of a share of 100 %
_BAR = 40


@dataclass(frozen=True)
class Lengths:
    """The document lengths of one component.

    Every length is in tokens with end-of-text, every share is of the component's tokens.

    Attributes:
        percentiles: of the documents' lengths (10, 50, 90, 99, max), each a length that occurs.
        at_least: "1", "1/2", "1/4", "1/8" of the sequence length -> share of tokens in documents
            that long or longer.
        below: "1/32" of the sequence length -> share of tokens in shorter documents.
        histogram: power of two -> share of tokens in documents at least that long, but shorter than
            the next power.
        long_enough: whether :data:`LEAST_SHARE` of the tokens are in documents of at least
            :data:`LONG`.
    """

    documents: int
    tokens: int
    percentiles: dict[str, int]
    at_least: dict[str, float]
    below: dict[str, float]
    histogram: dict[int, float]
    long_enough: bool


def report(
    data: Path,
    stage: str,
    size: str,
    *,
    as_json: bool = False,
) -> None:
    """Print the document lengths of each component of ``data``, and whether they suit a stage.

    Args:
        data: a data folder, an output folder of ``granite41 data tokenize``, or the prefix of one
            .idx file.
        stage, size: of pre-training or long-context extension.
        as_json: print one JSON object instead of tables.

    Raises:
        UserError: an unknown stage, no data, damaged data, or a component without tokens.
    """
    sequence_length = resolve_pretraining(stage, size).sequence_length.value
    components = {}
    for name, found in prefixes(data).items():
        components[name] = measure(name, found, sequence_length)

    if as_json:
        by_name = {name: asdict(found) for name, found in components.items()}
        content = {
            "stage": stage,
            "size": size,
            "sequence_length": sequence_length,
            "components": by_name,
        }
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print(f"{stage} of {size}: sequences of {sequence_length:,} tokens")
        _tables(components)
        for name, lengths in components.items():
            _bars(name, lengths)

    shortest = math.ceil(LONG.value * sequence_length)
    for name, lengths in components.items():
        verdict = _verdict(name, lengths, shortest)
        # JSON holds it already; a warning is for both
        if not lengths.long_enough:
            log.warning("%s", verdict)
        elif not as_json:
            print(verdict)


def _verdict(
    name: str,
    lengths: Lengths,
    shortest: int,
) -> str:
    share = lengths.at_least[str(LONG.value)]
    if lengths.long_enough:
        return (
            f"{name}: {share:.0%} of tokens are in documents of at least {shortest:,}; "
            f"long enough for the stage"
        )
    return (
        f"{name}: {1 - share:.0%} of tokens are in documents shorter than {shortest:,}, so the "
        f"stage would mostly see sequences of many unrelated documents; pack or choose longer ones"
    )


def prefixes(data: Path) -> dict[str, list[Path]]:
    """Return component -> its shards' prefixes.

    A tokenized folder or a single file is one component of its own name.

    Raises:
        UserError: ``data`` is none of the three, or its manifest is damaged.
    """
    prefix = data
    if data.suffix == ".idx":
        prefix = data.with_suffix("")
    if Path(f"{prefix}.idx").is_file():
        return {prefix.name: [prefix]}
    file = data / MANIFEST
    if not file.is_file():
        raise UserError(
            f"{data}: has no {MANIFEST} and is no prefix of an .idx file, expected prepared data; "
            f"check it"
        )
    manifest = read_json(file, "prepare the data again")
    try:
        # a tokenized folder's manifest lists its shards without components
        components = manifest.get("components", {data.resolve().name: manifest})
        found = {}
        for name, component in components.items():
            shards = component["shards"]
            found[name] = [data / shard["prefix"] for shard in shards]
        return found
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: names no shards of .bin and .idx files, expected those of prepared data"
        ) from error


def measure(
    name: str,
    shards: list[Path],
    sequence_length: int,
) -> Lengths:
    """Return the document lengths of a component in ``shards``.

    Raises:
        UserError: an .idx file is missing or damaged, or there is no token.
    """
    by_shard = [indexed.lengths(shard) for shard in shards]
    lengths = np.concatenate([np.empty(0, np.int64), *by_shard])
    tokens = int(lengths.sum())
    if not tokens:
        raise UserError(f"{name}: holds no token, expected documents; prepare it again")

    def share(chosen: np.ndarray) -> float:
        return float(lengths[chosen].sum() / tokens)

    # by parts of the sequence length
    at_least = {}
    for part in AT_LEAST:
        shortest = math.ceil(part * sequence_length)
        at_least[str(part)] = share(lengths >= shortest)
    below = share(lengths < math.ceil(BELOW * sequence_length))

    # by powers of two: a length n of 2^k <= n < 2^(k + 1) has the exponent k + 1
    _, exponents = np.frexp(np.maximum(lengths, 1).astype(np.float64))
    powers = exponents - 1
    histogram = {}
    for power in range(int(powers.min()), int(powers.max()) + 1):
        histogram[2**power] = share(powers == power)

    # a method that yields lengths that occur, not what lies between two
    names = [*map(str, PERCENTILES), "max"]
    values = np.percentile(lengths, [*PERCENTILES, 100], method="inverted_cdf")
    return Lengths(
        documents=len(lengths),
        tokens=tokens,
        percentiles=dict(zip(names, values.tolist(), strict=True)),
        at_least=at_least,
        below={str(BELOW): below},
        histogram=histogram,
        long_enough=at_least[str(LONG.value)] >= LEAST_SHARE.value,
    )


def _tables(components: dict[str, Lengths]) -> None:
    counts = []
    shares = []
    for name, lengths in components.items():
        numbers = [
            lengths.documents,
            lengths.tokens,
            *lengths.percentiles.values(),
        ]
        cells = [f"{number:,}" for number in numbers]
        counts.append([name, *cells])

        parts = [*lengths.at_least.values(), *lengths.below.values()]
        cells = [f"{share:.1%}" for share in parts]
        shares.append([name, *cells])

    percentiles = [f"{number}th percentile" for number in PERCENTILES]
    columns = [
        "component",
        "documents",
        "tokens",
        *percentiles,
        "longest",
    ]
    print_table(columns, counts)
    columns = [
        "share of tokens in documents of",
        *[f"at least {part}" for part in AT_LEAST],
        f"below {BELOW}",
    ]
    print_table(columns, shares)


def _bars(name: str, lengths: Lengths) -> None:
    print(f"{name}: share of tokens by the length of their document")
    for start, share in lengths.histogram.items():
        end = 2 * start - 1
        bar = "#" * round(share * _BAR)
        line = f"  {start:>11,} to {end:>11,}  {share:6.1%}  {bar}"
        print(line.rstrip())
    print()
