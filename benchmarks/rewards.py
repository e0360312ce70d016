"""Reward functions in their workers: samples a second by domain, and with more workers.

    python benchmarks/rewards.py [--prompts 64] [--samples 16] [--workers 1 2] [--rounds 3]

Method: prompts of the generators of ``granite41 data prompts``, and for each as many answers as RL
samples; ``Workers.score`` scores all of them, after a round that starts workers and reads gold
answers. An answer is the gold answer of its own prompt, or that of the next one, in turn; of free
answers it is a fixed text. Medians of the rounds. Math's expressions are compared by math-verify
and sympy, its numbers without them.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from cli import report

sys.path.insert(0, str(Path(__file__).parents[1]))
from data_prep.prompts.made_up.generators import GENERATORS, make_up
from recipes.alignment.rewards.reward import Outcome
from recipes.alignment.rewards.workers import Workers
from recipes.runs.prompts import Prompt

Pair = tuple[Prompt, str]


def expressions(count: int) -> list[Prompt]:
    """Return prompts of math whose gold answers are polynomials."""
    prompts = []
    for number in range(count):
        text = f"x^2 + {number + 2}x + \\frac{{{number + 1}}}{{{number + 3}}}"
        messages = [{"role": "user", "content": "Which polynomial?"}]
        prompts.append(Prompt(f"e{number}", "math", messages, "math", {"answer": text}))
    return prompts


def right_answer(prompt: Prompt) -> str:
    """Return an answer that is right by its reward function."""
    gold = prompt.gold
    if prompt.reward == "math":
        # another form, or nothing would be computed
        return rf"\boxed{{0 + {gold['answer']}}}" if "x" in gold["answer"] else gold["answer"]
    if prompt.reward == "structured_output":
        return json.dumps(gold["value"])
    if prompt.reward == "text2sql":
        return f"```sql\n{gold['query']}\n```"
    if prompt.reward in ("instruction_following", "chat"):
        return "Congratulations to Ann and Bob on this new house, and on the birthday of today!"
    if prompt.reward == "identity":
        return "I am Granite, and IBM has made me."
    if prompt.reward == "calibration":
        return gold["answers"][0] if gold["answers"] else "I do not know."
    if "kinds" in gold:
        return ", ".join(f"{name}: {kind}" for name, kind in gold["kinds"].items())
    if "order" in gold:
        return ", ".join(gold["order"])
    return str(gold.get("answer") or gold["answers"][0])


def pairs_of(prompts: list[Prompt], samples: int) -> list[Pair]:
    """Return answers to each prompt, every other one that of the next prompt."""
    pairs = []
    for number, prompt in enumerate(prompts):
        answers = [right_answer(prompt), right_answer(prompts[(number + 1) % len(prompts)])]
        pairs += [(prompt, answers[sample % 2]) for sample in range(samples)]
    return pairs


def seconds_of(workers: Workers, pairs: list[Pair], rounds: int) -> float:
    """Return the median of seconds that scoring takes."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        rewards = workers.score(pairs)
        found.append(time.perf_counter() - start)
        assert not {Outcome.TIMED_OUT, Outcome.INFRASTRUCTURE} & {r.outcome for r in rewards}
    return statistics.median(found[1:])


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=64, help="of each domain (64)")
    parser.add_argument("--samples", type=int, default=16, help="answers to a prompt (16)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="(1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (3)")
    options = parser.parse_args()

    domains = {"math, expressions": expressions(options.prompts)}
    for name, generator in GENERATORS.items():
        domains[generator.domain] = list(make_up(name, options.prompts, 7, is_easy=False))
    speeds: dict[str, list[float]] = {}
    for count in options.workers:
        with Workers(count, {prompts[0].reward for prompts in domains.values()}) as workers:
            for domain, prompts in domains.items():
                pairs = pairs_of(prompts, options.samples)
                seconds = seconds_of(workers, pairs, options.rounds)
                speeds.setdefault(domain, []).append(len(pairs) / seconds)

    columns = [f"{count} workers, samples/s" for count in options.workers]
    rows = []
    for domain, found in speeds.items():
        scaling = f"{found[-1] / found[0]:.2f}"
        rows.append([domain, *(f"{speed:.0f}" for speed in found), scaling])
    report(["domain", *columns, "last / first"], rows)


if __name__ == "__main__":
    main()
