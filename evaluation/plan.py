"""What an evaluation is to score: its units, and the benchmarks that it leaves out."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation import suites
from evaluation.results import unit_name
from evaluation.suites import LONG_CONTEXT, Benchmark, Suite
from recipes.common.errors import UserError
from recipes.model_folder.folder import ModelFolder
from recipes.runs.commands import EvaluateOptions

# what a unit costs besides its prompts, in tokens: lm-eval's start and its files
_UNIT_OVERHEAD_TOKENS = 4096


@dataclass(frozen=True)
class PlannedUnit:
    """A unit of a suite that is yet to be scored.

    Attributes:
        task: its benchmark.
        length: RULER's tokens of prompt and answer together, or None.
        samples: documents to score; None for all.
        seconds: time limit.
    """

    task: Benchmark
    length: int | None
    samples: int | None
    seconds: float

    @property
    def name(self) -> str:
        """``task`` or ``task@length``."""
        return unit_name(self.task.name, self.length)

    @property
    def cost(self) -> float:
        """Tokens to read; the same for each task whose prompts are not known beforehand."""
        if self.length is None:
            return 1
        return _UNIT_OVERHEAD_TOKENS + (self.samples or 1) * self.length


@dataclass(frozen=True)
class Plan:
    """The units of an evaluation.

    Attributes:
        suite: with the settings for ``size``.
        size: model size.
        samples: documents of each task; None for all.
        units: every unit of the suite.
        chosen: those of ``units`` that are to have a result at the end.
        left_out: benchmark that is not run -> the reason.
    """

    suite: Suite
    size: str
    samples: int | None
    units: tuple[PlannedUnit, ...]
    chosen: tuple[PlannedUnit, ...]
    left_out: dict[str, str]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and answer; 0 where no unit has a length."""
        return max((unit.length or 0 for unit in self.chosen), default=0)


def plan_evaluation(options: EvaluateOptions, model: ModelFolder) -> Plan:
    """Return what ``options`` selects for ``model``.

    Raises:
        UserError: an unknown suite, size or task; a task that cannot be run; lengths for a suite
            without, or longer than the model's context.
    """
    suite = suites.get_suite(options.suite, options.size)
    lengths: Sequence[int] = ()
    if suite.name == LONG_CONTEXT:
        own = suites.lengths(options.size, model.positions)
        lengths = sorted({*own, *options.lengths})
    elif options.lengths:
        raise UserError(
            f"--lengths: suite {suite.name} has no lengths, only {LONG_CONTEXT}; leave it out"
        )

    # the whole suite
    units = []
    for task, length in suites.units(suite.name, options.size, lengths):
        if options.allow_code or not task.unsafe_code:
            samples = options.samples or _num_samples(suite, length)
            units.append(PlannedUnit(task, length, samples, suite.seconds))

    # the part of it that is to be scored now
    selected = suites.units(
        suite.name,
        options.size,
        options.lengths or lengths,
        options.tasks,
    )
    names = {unit_name(task.name, length) for task, length in selected}

    plan = Plan(
        suite=suite,
        size=options.size,
        samples=options.samples or suite.samples,
        units=tuple(units),
        chosen=tuple(unit for unit in units if unit.name in names),
        left_out=_left_out(suite, options),
    )
    _check_context(model, plan.longest)
    return plan


def _num_samples(suite: Suite, length: int | None) -> int | None:
    """Return the samples of a unit: the suite's, or fewer where its tokens would be too many."""
    if not (length and suite.samples and suite.unit_tokens):
        return suite.samples
    return max(1, min(suite.samples, suite.unit_tokens // length))


def _left_out(suite: Suite, options: EvaluateOptions) -> dict[str, str]:
    reasons = suites.unavailable(suite.name, options.size)
    if not options.allow_code:
        for task in suite.tasks.values():
            if task.unsafe_code:
                reasons[task.name] = (
                    "it runs what the model writes; --allow-code runs it in a sandbox"
                )
    return reasons


def _check_context(model: ModelFolder, longest: int) -> None:
    if longest > model.positions:
        raise UserError(
            f"{model.folder}: has {model.positions:,} positions, but {longest:,} tokens are asked "
            f"for; leave out the longer --lengths or name a model of a later stage"
        )
