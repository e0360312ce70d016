"""The rubric: dimensions with weights, thresholds, and the bucket that follows from a verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.conversations.judge.verdict import DIMENSIONS, LARGEST, SMALLEST, Verdict
from recipes.common.errors import UserError, nearest
from recipes.common.json_files import is_number, parse_record

SHIPPED = Path(__file__).with_name("rubric.yaml")

ACCEPT = "accept"
BORDERLINE = "borderline"
REJECT = "reject"
UNDECIDED = "undecided"
BUCKETS = (ACCEPT, BORDERLINE, REJECT, UNDECIDED)
_REMEDY = "see data_prep/conversations/judge/rubric.yaml"
_ORIGINS = ("published", "derived", "assumed", "override")


@dataclass(frozen=True)
class Dimension:
    """What a score is for.

    Attributes:
        weight: in the mean of the scores; of all dimensions together 1.
        origin, why: of the weight, see :mod:`recipes.spec.origin`.
        asks: the question to the judge.
    """

    weight: int | float
    origin: str
    why: str
    asks: str


@dataclass(frozen=True)
class Threshold:
    """The lowest score of a bucket, and where the number is from."""

    value: int | float
    origin: str
    why: str


@dataclass(frozen=True)
class Thresholds:
    """Lowest scores of the two buckets above ``reject``."""

    accept: Threshold
    borderline: Threshold


@dataclass(frozen=True)
class Sampling:
    """Settings of the judge's answers, which are part of the cache's key."""

    temperature: int | float
    max_tokens: int


@dataclass(frozen=True)
class Rubric:
    """What the judge scores, and what follows from its scores."""

    dimensions: dict[str, Dimension]
    thresholds: Thresholds
    sampling: Sampling

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """Dimension -> weight."""
        return {name: dimension.weight for name, dimension in self.dimensions.items()}

    def score(self, verdict: Verdict) -> float:
        """Return the weighted mean of a verdict's scores, 1 to 10."""
        return math.fsum(weight * verdict.scores[name] for name, weight in self.weights.items())

    def band(self, score: float) -> str:
        """Return the bucket of a score without a fault."""
        # a mean of equal scores may come out a rounding error below them
        score = round(score, 6)
        if score >= self.thresholds.accept.value:
            return ACCEPT
        if score >= self.thresholds.borderline.value:
            return BORDERLINE
        return REJECT

    def bucket(self, verdict: Verdict) -> str:
        """Return accept, borderline or reject; any fault rejects whatever the score."""
        if any(verdict.faults.values()):
            return REJECT
        return self.band(self.score(verdict))


def load_rubric(file: Path | None = None) -> Rubric:
    """Return the rubric of this package, or of a user's ``file`` of the same form.

    Raises:
        UserError: ``file`` cannot be read, or holds another form, other dimensions, weights that
            do not add up to 1, or thresholds out of order.
    """
    import yaml

    path = file or SHIPPED
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; name an existing rubric") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{path}: is not a readable YAML file ({detail}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no dimensions and thresholds; {_REMEDY}")
    rubric = parse_record(Rubric, content, str(path), _REMEDY)
    _check_dimensions(rubric, path)
    _check_numbers(rubric, path)
    return rubric


def _check_dimensions(rubric: Rubric, path: Path) -> None:
    for name in rubric.dimensions:
        if name not in DIMENSIONS:
            raise UserError(
                f"{path}: unknown dimension {name!r}{nearest(str(name), DIMENSIONS)}, expected "
                f"{', '.join(DIMENSIONS)}; rename or remove it"
            )
    missing = [name for name in DIMENSIONS if name not in rubric.dimensions]
    if missing:
        raise UserError(f"{path}: dimension {missing[0]} is missing; add it with a weight")
    origins = [dimension.origin for dimension in rubric.dimensions.values()]
    origins += [rubric.thresholds.accept.origin, rubric.thresholds.borderline.origin]
    for origin in origins:
        if origin not in _ORIGINS:
            raise UserError(
                f"{path}: origin {origin!r}: expected {', '.join(_ORIGINS)}; correct it"
            )


def _check_numbers(rubric: Rubric, path: Path) -> None:
    for name, weight in rubric.weights.items():
        if not is_number(weight) or weight < 0:
            raise UserError(f"{path}: {name}: weight {weight}: expected 0 or more; correct it")
    total = math.fsum(rubric.weights.values())
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise UserError(f"{path}: the weights add up to {total:g}, expected 1; correct them")

    accept = rubric.thresholds.accept.value
    borderline = rubric.thresholds.borderline.value
    if not SMALLEST <= borderline <= accept <= LARGEST:
        raise UserError(
            f"{path}: thresholds: found borderline {borderline:g} and accept {accept:g}, expected "
            f"{SMALLEST} <= borderline <= accept <= {LARGEST}; correct them"
        )
    if not 0 <= rubric.sampling.temperature <= 2 or rubric.sampling.max_tokens < 1:
        raise UserError(
            f"{path}: sampling: expected a temperature from 0 to 2 and max_tokens of at least 1; "
            f"correct them"
        )
