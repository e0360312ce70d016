"""The choice of the builder, and so of the settings, for a task and a length."""

from numpy.random import RandomState

from evaluation.ruler.builder import Builder
from evaluation.ruler.chains import ChainBuilder
from evaluation.ruler.needles import NeedleBuilder
from evaluation.ruler.questions import QuestionBuilder
from evaluation.ruler.settings import (
    ChainSettings,
    CodedSettings,
    ListSettings,
    NeedleSettings,
    QuestionSettings,
    Settings,
    settings_candidates,
)
from evaluation.ruler.tables import Tables
from evaluation.ruler.words import CodedBuilder, ListBuilder
from recipes.common.errors import UserError

_BUILDERS: dict[type[Settings], type[Builder]] = {
    NeedleSettings: NeedleBuilder,
    ChainSettings: ChainBuilder,
    ListSettings: ListBuilder,
    CodedSettings: CodedBuilder,
    QuestionSettings: QuestionBuilder,
}
_PROBES = 16
# a haystack is a tenth of the length or more, where any settings can make it so
_MOST_FIXED_SHARE = 0.9
_LEAST_QUESTION_SHARE = 0.5


def choose(
    task: str,
    length: int,
    tables: Tables,
) -> Builder:
    """Return the builder for the first of ``task``'s settings that fits ``length`` tokens.

    The published settings come first. They fit where the prompt without its filler, the longest of
    16 draws and some room for longer ones, leaves a tenth of the length; those of the question
    tasks where half of the questions fit. The smallest settings are taken if they fit at all.

    Raises:
        UserError: the smallest settings do not fit.
    """
    builders = [
        _BUILDERS[type(settings)](task, length, settings, tables)
        for settings in settings_candidates(task, length)
    ]
    questions = [builder for builder in builders if isinstance(builder, QuestionBuilder)]
    if questions:
        return _choose_for_questions(questions)
    return _choose_for_filler(builders)


def _choose_for_questions(builders: list[QuestionBuilder]) -> QuestionBuilder:
    for builder in builders:
        if builder.share >= _LEAST_QUESTION_SHARE:
            return builder
    best = max(builders, key=lambda builder: builder.share)
    if not best.fitting:
        raise _too_short(best)
    return best


def _choose_for_filler(builders: list[Builder]) -> Builder:
    smallest: Builder | None = None
    needed = 0
    for builder in builders:
        needed, answer = _needed_tokens(builder)
        if answer > builder.settings.budget:
            continue
        if needed <= _MOST_FIXED_SHARE * builder.length:
            return builder
        if needed <= builder.length:
            smallest = builder
    if smallest is None:
        needs = f", which needs {needed:,} tokens or more with this tokenizer"
        raise _too_short(builders[-1], needs)
    return smallest


def _needed_tokens(builder: Builder) -> tuple[int, int]:
    """Return the tokens of a prompt without filler plus its budget, and of the longest answer."""
    drafts = [builder.build(RandomState(probe), probe, 0) for probe in range(_PROBES)]
    prompts = [draft.text for draft in drafts]
    answers = [" ".join(draft.outputs) for draft in drafts]
    prompt_tokens = builder.counter.counts(prompts) + builder.counter.added
    answer_tokens = builder.counter.counts(answers)

    # as much room above the longest draw as it is above the shortest
    longest = int(prompt_tokens.max())
    needed = 2 * longest - int(prompt_tokens.min())
    return needed + builder.settings.budget, int(answer_tokens.max())


def _too_short(builder: Builder, needs: str = "") -> UserError:
    return UserError(
        f"{builder.task}: {builder.length:,} tokens are too few for its smallest settings{needs}; "
        f"ask for more"
    )
