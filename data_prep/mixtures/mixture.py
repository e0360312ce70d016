"""Mixtures: the catalog sources of each component of a stage, their weights and repetition."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from data_prep.catalog.catalog import CatalogSource, load_catalog
from recipes.common.errors import UserError, nearest
from recipes.common.json_files import is_number
from recipes.registry.stages import PRETRAIN_STAGES
from recipes.spec.mixtures import TOLERANCE
from recipes.spec.origin import Sourced


def _number_phases() -> dict[str, tuple[str, ...]]:
    """Return phase -> its stages, as IBM counts: long-context extension is the last phase."""
    names = [name for name, stage in PRETRAIN_STAGES.items() if stage.kind == "pretrain"]
    phases = {str(number): (name,) for number, name in enumerate(names, 1)}
    last = str(len(names) + 1)
    return {**phases, last: tuple(name for name in PRETRAIN_STAGES if name not in names)}


PHASES = _number_phases()
# up to here repeated text is worth nearly as much as new text (Muennighoff et al., arXiv
# 2305.16264)
MAXIMUM_EPOCHS = 4.0

_COMPONENT_KEYS = ("percent", "why", "sources", "stand_in")
_SEE = "see data_prep/mixtures/phase1.yaml"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Component:
    """One component of a mixture.

    Attributes:
        percent: of the stage's tokens.
        weights: of the sources within the component, adding up to 1; those of weight zero are left
            out.
        stand_in: the sources among them that replace what is not public.
        why: the reason for the weights.
    """

    name: str
    percent: float
    weights: Mapping[str, float]
    stand_in: frozenset[str]
    why: str

    @property
    def has_public_source(self) -> bool:
        """Whether any of IBM's own sources is public; otherwise stand-ins make up the component."""
        return any(source not in self.stand_in for source in self.weights)


@dataclass(frozen=True)
class Mixture:
    """A stage's components in the recipe's order.

    Attributes:
        warnings: one sentence each.
    """

    stage: str
    components: tuple[Component, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PlannedSource:
    """The tokens that a stage needs of one source within one component.

    Attributes:
        share: percent of the stage's tokens.
        tokens: needed.
        epochs: how often the whole stage reads the source, over all its components; None where its
            size is unknown.
    """

    component: str
    source: CatalogSource
    stand_in: bool
    share: float
    tokens: float
    epochs: float | None

    @property
    def repeated(self) -> bool:
        """Whether the stage reads the source more often than :data:`MAXIMUM_EPOCHS`."""
        return self.epochs is not None and self.epochs > MAXIMUM_EPOCHS


@dataclass(frozen=True)
class Plan:
    """A mixture at a number of tokens."""

    mixture: Mixture
    tokens: Sourced[int]
    rows: tuple[PlannedSource, ...]


def phase_stages(phase: str) -> tuple[str, ...]:
    """Return the stages of ``phase``: a number of :data:`PHASES`, or a stage's name.

    Raises:
        UserError: no such phase or stage of pre-training.
    """
    if phase in PHASES:
        return PHASES[phase]
    if phase in PRETRAIN_STAGES:
        return (phase,)
    known = [*PHASES, *PRETRAIN_STAGES]
    raise UserError(
        f"--phase {phase}: no such phase{nearest(phase, known)}; known are {', '.join(known)}"
    )


def parse_tokens(text: str) -> int:
    """Return the number of tokens in ``text``, such as ``2T``, ``500B``, ``1e12`` or ``4096``.

    Raises:
        UserError: anything else, and numbers below one.
    """
    # a number, perhaps with an exponent, and perhaps a unit
    pattern = r"(\d+(?:\.\d+)?(?:e\d{1,2})?)([KMBT]?)"
    match = re.fullmatch(pattern, text.strip(), flags=re.IGNORECASE)
    tokens = 0
    if match:
        number = float(match[1])
        unit = _UNITS[match[2].upper()]
        tokens = round(number * unit)
    if tokens < 1:
        raise UserError(
            f"--tokens {text}: expected a number of tokens above zero, such as 2T, 500B or 1e12"
        )
    return tokens


def load_mixture(stage: str, file: Path | None = None) -> Mixture:
    """Return the mixture of ``stage``, of this package or from a user's ``file`` of the same form.

    The components must be the recipe's. Percentages that differ from the recipe's are an error in
    this package's files and a warning in a user's.

    Raises:
        UserError: ``file`` cannot be read, or something in it is not as the comment of
            ``phase1.yaml`` says.
    """
    path = file or _shipped(stage)
    document = _read(path)
    # a file of this package by its name alone
    name = path.name if file is None else str(file)
    if stage not in document:
        found = ", ".join(map(str, document)) or "nothing"
        raise UserError(
            f"{name}: no mixture for stage {stage}, found {found}; "
            f"put its components under the key {stage}"
        )
    content = document[stage]
    if isinstance(content, dict) and set(content) == {"same_as"}:
        other = str(content["same_as"])
        if other in document:
            content = document[other]
        elif other in PRETRAIN_STAGES:
            shipped = _shipped(other)
            name = shipped.name
            content = _read(shipped)[other]
        else:
            raise UserError(
                f"{name}: stage {stage}: same_as names {other!r}{nearest(other, PRETRAIN_STAGES)}, "
                f"expected a stage of pre-training ({', '.join(PRETRAIN_STAGES)}); correct it or "
                "write the components out"
            )
    return _mixture(stage, content, name, is_own=file is not None)


def plan(mixture: Mixture, tokens: int | None = None) -> Plan:
    """Return the tokens that ``mixture`` needs of each source.

    Percentages are scaled to add up to exactly 100.

    Args:
        mixture: of a stage.
        tokens: of the whole stage; None for the recipe's.
    """
    # the recipe's tokens keep their origin, which the table shows
    budget = PRETRAIN_STAGES[mixture.stage].tokens
    if tokens is not None:
        budget = Sourced(tokens, "override", "set with --tokens")
    catalog = load_catalog()
    total_percent = math.fsum(component.percent for component in mixture.components)

    rows = []
    needed_of_source: defaultdict[str, float] = defaultdict(float)
    for component in mixture.components:
        component_tokens = budget.value * component.percent / total_percent
        for name, weight in component.weights.items():
            needed = component_tokens * weight
            # epochs need the sum over all components, which comes below
            row = PlannedSource(
                component=component.name,
                source=catalog[name],
                stand_in=name in component.stand_in,
                share=100 * needed / budget.value,
                tokens=needed,
                epochs=None,
            )
            rows.append(row)
            needed_of_source[name] += needed

    # a source of several components is read for all of them
    for index, row in enumerate(rows):
        if row.source.tokens:
            epochs = needed_of_source[row.source.id] / row.source.tokens.value
            rows[index] = replace(row, epochs=epochs)
    return Plan(mixture, budget, tuple(rows))


def _shipped(stage: str) -> Traversable:
    phase = next(phase for phase, stages in PHASES.items() if stage in stages)
    return resources.files(__package__) / f"phase{phase}.yaml"


def _read(path: Traversable) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; name an existing mixture file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable YAML file ({detail}); correct it") from error
    if not isinstance(document, dict):
        raise UserError(
            f"{path}: found {_kind(document)}, expected stages with their components; {_SEE}"
        )
    return document


def _mixture(stage: str, content: Any, name: str, is_own: bool) -> Mixture:
    recipe = PRETRAIN_STAGES[stage].mixture
    where = f"{name}: stage {stage}"
    if not isinstance(content, dict):
        raise UserError(f"{where}: found {_kind(content)}, expected components; {_SEE}")
    # both directions: nothing unknown, and nothing of the recipe left out
    for component in content:
        if component not in recipe:
            raise UserError(
                f"{where}: unknown component {component!r}{nearest(str(component), recipe)}, the "
                f"recipe has {', '.join(recipe)}; rename or remove it"
            )

    components = []
    warnings = []
    for component, percent in recipe.items():
        if component not in content:
            raise UserError(
                f"{where}: component {component} is missing, the recipe has it; add it (0 percent "
                "will do)"
            )
        parsed = _component(component, content[component], f"{where}: component {component}")
        components.append(parsed)
        if parsed.percent != percent.value:
            differs = (
                f"{where}: component {component}: {parsed.percent:g} percent, the recipe has "
                f"{percent.value:g}"
            )
            # a shipped file must agree with the recipe, a user's own need not
            if not is_own:
                raise UserError(f"{differs}; make them equal")
            warnings.append(differs)

    total = math.fsum(component.percent for component in components)
    if abs(total - 100) > TOLERANCE:
        raise UserError(f"{where}: the percentages add up to {total:g}, expected 100; correct them")
    return Mixture(stage, tuple(components), tuple(warnings))


def _component(name: str, content: Any, where: str) -> Component:
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: found {_kind(content)}, expected percent, why, sources and stand_in; {_SEE}"
        )
    # a misspelled key would silently leave its default
    for key in content:
        if key not in _COMPONENT_KEYS:
            raise UserError(
                f"{where}: unknown key {key!r}{nearest(str(key), _COMPONENT_KEYS)}, expected "
                f"{', '.join(_COMPONENT_KEYS)}; rename or remove it"
            )
    if "percent" not in content:
        raise UserError(f"{where}: no percent, expected a number from 0 to 100; add it")
    percent = _number(content["percent"], f"{where}: percent")
    weights = _weights(content, where)
    total = math.fsum(weights.values())
    if not total:
        found = "no sources"
        if weights:
            found = "only weights of zero"
        raise UserError(
            f"{where}: found {found}, expected a weight above zero; add a source or a stand_in"
        )
    # a source of weight zero is none
    shares = {source: weight / total for source, weight in weights.items() if weight}
    return Component(
        name=name,
        percent=percent,
        weights=shares,
        stand_in=frozenset(content.get("stand_in") or {}),
        why=str(content.get("why", "")),
    )


def _weights(content: dict[str, Any], where: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for group in ("sources", "stand_in"):
        listed = content.get(group) or {}
        if not isinstance(listed, dict):
            raise UserError(
                f"{where}: {group}: found {_kind(listed)}, expected `id: weight` pairs; correct it"
            )
        for source, weight in listed.items():
            _check_source(source, f"{where}: {group}")
            if source in weights:
                raise UserError(
                    f"{where}: {source} is in sources and in stand_in, expected once; remove one"
                )
            weights[source] = _number(weight, f"{where}: {group}: {source}: weight")
    return weights


def _check_source(name: Any, where: str) -> None:
    catalog = load_catalog()
    if name not in catalog:
        raise UserError(
            f"{where}: unknown source {name!r}{nearest(str(name), catalog)}, expected an id of the "
            "catalog; `granite41 data sources` lists them"
        )
    if not catalog[name].public:
        raise UserError(
            f"{where}: {name} is not public ({catalog[name].reason}), expected a public source; "
            "name another"
        )


def _number(value: Any, where: str) -> float:
    if not is_number(value) or value < 0:
        raise UserError(f"{where} is {value!r:.60}, expected a number of zero or more; correct it")
    return float(value)


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list"
    return repr(value)
