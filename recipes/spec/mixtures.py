"""Data mixtures of pre-training and long-context extension: percent of tokens by component."""

from recipes.spec.origin import Sourced, published

Mixture = dict[str, Sourced[float]]
# percent by which a sum may miss 100: phase 3 is published to two decimals and sums to 100.01
TOLERANCE = 0.1


def _published(fact: str, percent: dict[str, float]) -> Mixture:
    return {
        component: published(value, "W", f"{fact}.{component}")
        for component, value in percent.items()
    }


PHASE1 = _published(
    "pretraining.phases.0.mixture",
    {
        "common_crawl": 59.0,
        "code": 20.0,
        "math": 7.0,
        "technical": 10.5,
        "multilingual": 2.0,
        "domain": 1.5,
    },
)

PHASE2 = _published(
    "pretraining.phases.1.mixture",
    {
        "math": 35.0,
        "code": 30.0,
        "common_crawl_hq": 12.0,
        "synthetic": 9.0,
        "technical": 10.0,
        "multilingual": 3.0,
        "domain": 1.0,
    },
)

PHASE3 = _published(
    "pretraining.phases.2.mixture",
    {
        "common_crawl_hq": 16.67,
        "math": 16.67,
        "code": 16.67,
        "synthetic": 8.5,
        "technical": 12.5,
        "multilingual": 4.5,
        "long_cot": 12.5,
        "language_instruction": 7.5,
        "code_instruction": 4.5,
    },
)

PHASE4 = _published(
    "pretraining.phases.3.mixture",
    {
        "common_crawl_hq": 40.0,
        "code": 20.0,
        "math": 20.0,
        "long_cot": 6.0,
        "code_instruction": 5.0,
        "language_instruction": 9.0,
    },
)

LCE_512K = _published(
    "pretraining.phases.4.stages.2.mixture",
    {
        "books": 80.0,
        "code_repositories": 20.0,
    },
)
