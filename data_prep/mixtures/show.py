"""Tables and JSON of ``granite41 data sources`` and ``granite41 data plan``."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from data_prep.catalog.catalog import CatalogSource, load_catalog
from data_prep.mixtures.mixture import MAXIMUM_EPOCHS, Component, Mixture, Plan, PlannedSource
from recipes.common.tables import human, print_table
from recipes.spec.origin import Sourced

_LANGUAGES_SHOWN = 3


def source_json(source: CatalogSource) -> dict[str, Any]:
    """Return everything that the catalog knows of ``source``; ``disclosed`` is IBM's, verbatim."""
    return {
        "id": source.id,
        "name": source.name,
        "category": source.category,
        "stages": dict(source.stages),
        "disclosed": source.disclosed and asdict(source.disclosed),
        "seed": source.seed,
        "public": source.public,
        "license": source.license,
        "loading": source.loading and asdict(source.loading),
        "reason": source.reason,
        "note": source.note,
        "tokens": source.tokens and _sourced_json(source.tokens),
    }


def mixture_json(mixture: Mixture) -> dict[str, Any]:
    """Return the components of ``mixture`` with everything known of their sources."""
    components = [_component_json(component) for component in mixture.components]
    return {
        "stage": mixture.stage,
        "components": components,
        "warnings": list(mixture.warnings),
    }


def _component_json(component: Component) -> dict[str, Any]:
    catalog = load_catalog()
    sources = []
    for name, weight in component.weights.items():
        known = source_json(catalog[name])
        sources.append(
            {
                "weight": weight,
                "stand_in": name in component.stand_in,
                **known,
            }
        )
    return {
        "component": component.name,
        "percent": component.percent,
        "why": component.why,
        "has_public_source": component.has_public_source,
        "sources": sources,
    }


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return ``plan`` by component; tokens are rounded to whole ones, an unknown number is null."""
    components = []
    for name, rows in _by_component(plan):
        sources = [_row_json(row) for row in rows]
        components.append(
            {
                "component": name,
                **_totals(rows),
                "sources": sources,
            }
        )
    return {
        "stage": plan.mixture.stage,
        "tokens": _sourced_json(plan.tokens),
        "components": components,
        "total": _totals(plan.rows),
        "warnings": plan_warnings(plan),
    }


def plan_warnings(plan: Plan) -> list[str]:
    """Return the mixture's warnings, and one for each source that is read too often."""
    warnings = list(plan.mixture.warnings)
    for row in plan.rows:
        if row.repeated:
            warnings.append(
                f"{plan.mixture.stage}: {row.component}: {row.source.id} would be read "
                f"{row.epochs:.1f} times, more than {MAXIMUM_EPOCHS:g}; lower its weight, "
                f"add sources or train on fewer tokens"
            )
    return warnings


def print_sources(sources: Iterable[CatalogSource]) -> None:
    """Print the catalog and how much of it is public."""
    listed = list(sources)
    columns = ["id", "category", "size", "languages", "seed", "license", "public", "loading"]
    print_table(columns, [_source_row(source) for source in listed])

    # the summary counts IBM's sources; this project's few are not disclosed
    disclosed = [source for source in listed if source.disclosed]
    public = [source for source in disclosed if source.public]
    loaded = sum(source.loading is not None for source in public)
    seeds = sum(source.seed for source in disclosed)
    others = len(listed) - len(disclosed)
    print(
        f"{len(disclosed)} sources disclosed by IBM: {len(public)} public, {loaded} of them loaded "
        f"by datasets; {others} others stand in for what is not public. "
        f"{seeds} marked seed: IBM made synthetic data from them."
    )


def _source_row(source: CatalogSource) -> list[str]:
    public = "no"
    loading = ""
    if source.public:
        public = "yes"
        loading = _loading(source)
    return [
        source.id,
        source.category or "not from IBM",
        _size(source),
        _languages(source.languages),
        "seed" if source.seed else "",
        source.license or "unknown",
        public,
        loading,
    ]


def print_mixture(mixture: Mixture) -> None:
    """Print the sources of each component, their weights' reasons, and what is only stand-ins."""
    rows = []
    for component in mixture.components:
        rows += _component_rows(component)
    columns = ["component", "percent", "source", "weight %", "stands in", "size"]
    print_table([*columns, "license", "loading"], rows)
    for component in mixture.components:
        print(f"{mixture.stage}: {component.name}: {component.why}")

    # first the components of which nothing is public
    replaced = [component for component in mixture.components if component.stand_in]
    for reason, has_public_source in (
        ("no public source of IBM's", False),
        ("partly not public", True),
    ):
        for component in replaced:
            if component.has_public_source != has_public_source:
                continue
            # in the order of the file
            stand_ins = [name for name in component.weights if name in component.stand_in]
            names = ", ".join(stand_ins)
            print(f"{mixture.stage}: {component.name}: {reason}; stands in: {names}")


def _component_rows(component: Component) -> list[list[str]]:
    catalog = load_catalog()
    rows = []
    for name, weight in component.weights.items():
        source = catalog[name]
        rows.append(
            [
                component.name,
                human(component.percent),
                name,
                f"{100 * weight:.2f}",
                "stand-in" if name in component.stand_in else "",
                _size(source),
                source.license or "unknown",
                _loading(source),
            ]
        )
    return rows


def print_plan(plan: Plan) -> None:
    """Print what each source must give, with totals by component and over all, and a summary."""
    rows = []
    for name, members in _by_component(plan):
        rows += [_plan_row(name, row) for row in members]
        rows.append(_total_row(name, members))
    rows.append(_total_row("all", plan.rows))
    columns = ["component", "source", "stands in", "share %", "tokens wanted"]
    print_table([*columns, "available", "available is", "epochs"], rows)

    tokens = _short(plan.tokens.value)
    repeated = ", ".join(row.source.id for row in plan.rows if row.repeated)
    print(
        f"{plan.mixture.stage}: {tokens} tokens ({plan.tokens.origin}); "
        f"read more than {MAXIMUM_EPOCHS:g} times: {repeated or 'none'}"
    )


def _plan_row(component: str, row: PlannedSource) -> list[str]:
    available = "unknown"
    origin = "unknown"
    if row.source.tokens:
        available = _short(row.source.tokens.value)
        origin = row.source.tokens.origin

    epochs = "unknown"
    if row.epochs is not None:
        epochs = f"{row.epochs:.2f}"
    if row.repeated:
        epochs += " repeated"

    return [
        component,
        row.source.id,
        "stand-in" if row.stand_in else "",
        f"{row.share:.3f}",
        _short(row.tokens),
        available,
        origin,
        epochs,
    ]


def _sourced_json(sourced: Sourced[int]) -> dict[str, Any]:
    return {
        "value": sourced.value,
        "origin": sourced.origin,
        "why": sourced.why,
    }


def _row_json(row: PlannedSource) -> dict[str, Any]:
    available = row.source.tokens
    return {
        "source": row.source.id,
        "stand_in": row.stand_in,
        "share_percent": row.share,
        "tokens": round(row.tokens),
        "available": available and available.value,
        "available_origin": available.origin if available else "unknown",
        "available_why": available and available.why,
        "epochs": row.epochs,
        "repeated": row.repeated,
    }


def _by_component(plan: Plan) -> list[tuple[str, list[PlannedSource]]]:
    # a component's rows follow each other
    groups = groupby(plan.rows, key=lambda row: row.component)
    return [(name, list(rows)) for name, rows in groups]


def _totals(rows: Sequence[PlannedSource]) -> dict[str, Any]:
    # a source in two components is there once
    by_source = {row.source.id: row.source.tokens for row in rows}
    available = [tokens.value for tokens in by_source.values() if tokens]
    return {
        "share_percent": sum(row.share for row in rows),
        "tokens": round(sum(row.tokens for row in rows)),
        "available": sum(available),
        "unknown_sources": len(by_source) - len(available),
        "repeated_sources": sum(row.repeated for row in rows),
    }


def _total_row(name: str, rows: Sequence[PlannedSource]) -> list[str]:
    totals = _totals(rows)
    available = _short(totals["available"])
    unknown = totals["unknown_sources"]
    if unknown:
        available += f" and {unknown} unknown"
    return [
        name,
        "TOTAL",
        "",
        f"{totals['share_percent']:.3f}",
        _short(totals["tokens"]),
        available,
        "",
        "",
    ]


def _short(tokens: float) -> str:
    # three significant digits
    rounded = float(f"{tokens:.3g}")
    return human(int(rounded))


def _size(source: CatalogSource) -> str:
    if source.disclosed is None:
        return "unknown"
    megabytes = source.disclosed.size_MB
    for factor, unit in ((1e6, "TB"), (1e3, "GB")):
        if megabytes >= factor:
            return f"{megabytes / factor:.3g} {unit}"
    return f"{megabytes:.3g} MB"


def _languages(codes: Sequence[str]) -> str:
    shown = ", ".join(codes[:_LANGUAGES_SHOWN])
    left = len(codes) - _LANGUAGES_SHOWN
    if left > 0:
        return f"{shown} and {left} more"
    return shown


def _loading(source: CatalogSource) -> str:
    if source.loading is None:
        return f"not by datasets: {source.reason}"
    return str(source.loading)
