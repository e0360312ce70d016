"""Prompts of variable tracking: a chain of assignments, hidden in noise."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from numpy.random import RandomState

from evaluation.ruler.builder import Builder, Draft, draw_names, insert
from evaluation.ruler.settings import ChainSettings
from evaluation.ruler.tables import NOISE


class ChainBuilder(Builder[ChainSettings]):
    """Variable tracking.

    An example, shortened::

        Memorize and track the chain(s) of variable assignment hidden in the following text.

        The grass is green. The sky is blue. ...
        VAR QKZPA = 59612
        The grass is green. The sky is blue. ...
        VAR TEBLX = VAR QKZPA
        ...
        Question: Find all variables that are assigned the value 59612 in the text above. Answer:
        According to the chain(s) of variable assignment in the text above, 5 variables are
        assigned the value 59612, they are:

    Before it comes a solved example of the same form, with names of three letters.
    """

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings
        number = settings.hops + 1

        # several times as many as are needed, as some are drawn twice
        drawn = _draw_variables(rng, settings.letters, 4 * number)
        names = drawn[:number]
        drawn = _draw_variables(rng, 3, 8 * number, excluded=names)
        example = self._example(rng, drawn[:number], self._example_lines)

        # another value than the example's
        value = _draw_value(rng)
        while value in example:
            value = _draw_value(rng)

        statements = _chain_statements(names, value)
        frame = self.frame(example, query=value, count=number)
        room -= self.fixed_cost(frame, statements)
        context = insert(self.noise(room), statements, rng)
        return frame.draft(context, names)

    @cached_property
    def _example_lines(self) -> int:
        """Lines of noise that make the example as long as NVIDIA's."""
        settings = self.settings
        names = ["ABC"] * (settings.hops + 1)
        bare = self._example(RandomState(0), names, 0)
        missing = settings.example_tokens - self.cost(bare)
        return max(settings.example_lines, missing // self.tables.noise)

    def _example(
        self,
        rng: RandomState,
        names: list[str],
        lines: int,
    ) -> str:
        """Return a chain in ``lines`` lines of noise, with its answer."""
        value = _draw_value(rng)
        statements = _chain_statements(names, value)
        context = insert([NOISE] * lines, statements, rng)
        question = self.frame(query=value, count=len(names)).draft(context, names)
        return f"{question.text} {' '.join(names)}\n\n"


def _draw_value(rng: RandomState) -> str:
    return str(rng.randint(10000, 99999))


def _draw_variables(
    rng: RandomState,
    letters: int,
    number: int,
    excluded: Sequence[str] = (),
) -> list[str]:
    """Return different names of variables.

    Args:
        rng: random numbers.
        letters: of a name.
        number: of names, of which some may be drawn twice or excluded.
        excluded: names, besides ``VAR``.
    """
    drawn = draw_names(rng, "A", letters, number)
    return [name for name in dict.fromkeys(drawn) if name not in ("VAR", *excluded)]


def _chain_statements(names: list[str], value: str) -> list[str]:
    """Return one chain; the space at the end of all but the first is NVIDIA's."""
    statements = [f"VAR {names[0]} = {value}"]
    for source, name in pairwise(names):
        statements.append(f"VAR {name} = VAR {source} ")
    return statements
