"""Data mixtures: percent of a stage's tokens by component."""

from recipes.spec.origin import Sourced, published

Mixture = dict[str, Sourced[float]]

# percent by which a sum may miss 100: phase 3 is published to two decimals and sums to 100.01
TOLERANCE = 0.1


def published_mixture(fact: str, percent: dict[str, float]) -> Mixture:
    """Return IBM's mixture that facts.yaml has at ``fact``."""
    return {
        component: published(value, "W", f"{fact}.{component}")
        for component, value in percent.items()
    }
