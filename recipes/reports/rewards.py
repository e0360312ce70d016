"""Charts of a stage of reinforcement learning, over its steps."""

from collections.abc import Mapping

from recipes.reports.document import Block, Chart, Series
from recipes.reports.records import StageReport

# title -> unit, and the values of a step's line; a name that ends with / stands for all under it
CHARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "Reward": ("mean of the step", ("reward", "reward/")),
    "Divergence and entropy": ("nats per token", ("kl", "entropy")),
    "Length of the answers": ("tokens", ("response_length", "response_length/")),
    "Shares": (
        "of answers, groups or tokens",
        ("truncated", "unreadable", "timed_out", "no_signal", "clip_low", "clip_high"),
    ),
    "Engine and trainer": ("nats per token", ("engine_gap", "engine_kl")),
    "Seconds of a step": ("seconds", ("seconds/",)),
}


def reward_charts(stage: StageReport) -> list[Block]:
    """Return the charts; none for a stage of another kind."""
    charts: list[Block] = []
    if "reward" not in stage.metrics:
        return charts
    for title, (unit, names) in CHARTS.items():
        series = []
        for key, (steps, values) in stage.metrics.items():
            folder = key[: key.find("/") + 1]
            if key in names or (folder and folder in names):
                series.append(Series(key, steps, values, line="-"))
        axes = {"xlabel": "step", "ylabel": unit}
        charts.append(Chart(f"{title} of {stage.name}", series, axes))
    return charts


def reward_range(stage: StageReport) -> str | None:
    """Return the mean reward of the first and of the last tenth of a stage's steps."""
    _, rewards = stage.metrics.get("reward", ((), ()))
    if not rewards:
        return None
    part = max(1, len(rewards) // 10)
    first = sum(rewards[:part]) / part
    last = sum(rewards[-part:]) / part
    return f"{first:.3f} at the start, {last:.3f} at the end"
