"""Prompts of variable tracking: a chain of assignments, hidden in noise."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from numpy.random import RandomState

from evaluation.ruler.builder import Builder, Draft, draw_names, insert
from evaluation.ruler.settings import ChainSettings
from evaluation.ruler.tables import NOISE


class ChainBuilder(Builder[ChainSettings]):
    """Variable tracking."""

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings
        number = settings.hops + 1

        # several times as many as are needed, as some are drawn twice
        names = _draw_variables(rng, settings.letters, 4 * number, ["VAR"])[:number]
        example_names = _draw_variables(rng, 3, 8 * number, ["VAR", *names])[:number]
        example = self._example(rng, example_names, self._example_lines)

        # another value than the example's
        value = _draw_value(rng)
        while value in example:
            value = _draw_value(rng)

        statements = _chain_statements(names, value)
        frame = self.frame(example, query=value, count=number)
        room -= self.fixed_cost(frame, statements)
        return frame.draft(insert(self.noise(room), statements, rng), names)

    @cached_property
    def _example_lines(self) -> int:
        """Lines of noise that make the example as long as NVIDIA's."""
        names = ["ABC"] * (self.settings.hops + 1)
        bare = self.cost(self._example(RandomState(0), names, 0))
        missing = self.settings.example_tokens - bare
        return max(self.settings.example_lines, missing // self.tables.noise)

    def _example(
        self,
        rng: RandomState,
        names: list[str],
        lines: int,
    ) -> str:
        """Return a chain in ``lines`` lines of noise, with its answer."""
        value = _draw_value(rng)
        context = insert([NOISE] * lines, _chain_statements(names, value), rng)
        frame = self.frame(query=value, count=len(names))
        return f"{frame.draft(context, names).text} {' '.join(names)}\n\n"


def _draw_value(rng: RandomState) -> str:
    return str(rng.randint(10000, 99999))


def _draw_variables(
    rng: RandomState,
    letters: int,
    number: int,
    excluded: Sequence[str],
) -> list[str]:
    """Return ``number`` random names or, where some are drawn twice or excluded, fewer."""
    names = dict.fromkeys(draw_names(rng, "A", letters, number))
    return [name for name in names if name not in excluded]


def _chain_statements(names: list[str], value: str) -> list[str]:
    """Return one chain; the space at the end of all but the first is NVIDIA's."""
    later = [f"VAR {name} = VAR {source} " for source, name in pairwise(names)]
    return [f"VAR {names[0]} = {value}", *later]
