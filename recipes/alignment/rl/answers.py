"""What is known of the answers of a step before the policy is trained on them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from recipes.alignment.rewards.reward import Outcome


@dataclass(frozen=True)
class AnswerRecord:
    """An answer without its tokens, as the ranks tell each other of it.

    Attributes:
        draw: of the prompt, in the order of the stage; the answers to a draw are a group.
        prompt_id, domain: of the prompt.
        reward: as it was given.
        outcome: how it came about.
        tokens: of the answer, its stop token included.
        is_finished: whether it ended by itself.
    """

    draw: int
    prompt_id: str
    domain: str
    reward: float
    outcome: Outcome
    tokens: int
    is_finished: bool


def reward_metrics(answers: Sequence[AnswerRecord]) -> dict[str, float]:
    """Return the metrics of a step's answers, of all ranks.

    Returns:
        ``reward`` (mean) and ``reward/DOMAIN``; ``response_length`` (mean tokens) and
        ``response_length/OUTCOME``; ``truncated``, ``timed_out`` and ``unreadable`` (shares of the
        answers); ``no_signal`` (share of the groups whose rewards are all the same), of which
        ``all_right`` and ``all_wrong`` are the groups with only such outcomes.
    """
    metrics = {"reward": fmean(answer.reward for answer in answers)}
    by_domain = _means((answer.domain, answer.reward) for answer in answers)
    metrics |= {f"reward/{domain}": mean for domain, mean in by_domain.items()}

    metrics["response_length"] = fmean(answer.tokens for answer in answers)
    by_outcome = _means((answer.outcome.value, answer.tokens) for answer in answers)
    metrics |= {f"response_length/{outcome}": mean for outcome, mean in by_outcome.items()}

    metrics["truncated"] = fmean(not answer.is_finished for answer in answers)
    for outcome in (Outcome.TIMED_OUT, Outcome.UNREADABLE):
        metrics[outcome.value] = fmean(answer.outcome is outcome for answer in answers)
    return metrics | _group_metrics(answers)


def _group_metrics(answers: Sequence[AnswerRecord]) -> dict[str, float]:
    groups = defaultdict(list)
    for answer in answers:
        groups[answer.draw].append(answer)
    rewards = [{answer.reward for answer in group} for group in groups.values()]
    outcomes = [{answer.outcome for answer in group} for group in groups.values()]
    return {
        "no_signal": fmean(len(group) == 1 for group in rewards),
        "all_right": fmean(group == {Outcome.RIGHT} for group in outcomes),
        "all_wrong": fmean(Outcome.RIGHT not in group for group in outcomes),
    }


def _means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the mean of the values under each name, in the order of the names."""
    found = defaultdict(list)
    for name, value in values:
        found[name].append(value)
    return {name: fmean(found[name]) for name in sorted(found)}
