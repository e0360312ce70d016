"""Reward functions by name: each is a module with ``Gold``, ``example`` and ``score``."""

import importlib
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from recipes.alignment.rewards.answer import question_of, refuse
from recipes.alignment.rewards.reward import (
    BadGold,
    NoAnswer,
    Outcome,
    Reward,
    SeveralAnswers,
    timed_out,
    unreadable,
    wrong,
)
from recipes.common.errors import UserError, nearest
from recipes.common.json_files import parse_record
from recipes.runs.prompts import Prompt

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# scored by a model, and not by a module in a worker
REWARD_MODEL = "reward_model"

# name -> module beside this one, and the libraries that are worth loading once for all workers
_MODULES = {
    "math": ("math", ("math_verify",)),
    "science": ("science", ()),
    "logic": ("logic", ()),
    "instruction_following": (
        "instruction_following",
        ("lm_eval.tasks.ifeval.instructions_registry", f"{__package__}.language"),
    ),
    "structured_output": ("structured_output", ("jsonschema",)),
    "text2sql": ("text2sql", ("sqlglot",)),
    "temporal": ("temporal", ()),
    "in_context": ("in_context", ()),
    "chat": ("chat", ()),
    "identity": ("identity", ()),
    "calibration": ("calibration", ()),
}
NAMES = (*_MODULES, REWARD_MODEL)


class _Module(Protocol):
    """A module of a reward function."""

    Gold: "type[DataclassInstance]"

    def example(self, gold: Any) -> str:
        """Return an answer that is right, "" where none is known; raise BadGold."""

    def score(self, answer: str, gold: Any, question: str) -> Reward:
        """Return a reward; raise NoAnswer or SeveralAnswers."""


def require_known(names: Iterable[str], where: str) -> None:
    """Raise UserError unless all are names of reward functions.

    Args:
        where: the folder or file that names them.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"{where}: unknown reward {name!r}{nearest(name, NAMES)}, expected one of "
                f"{', '.join(NAMES)}; correct it"
            )


def libraries(names: Iterable[str]) -> list[str]:
    """Return the modules that workers of these reward functions import."""
    found = [__name__]
    for name in names:
        if name == REWARD_MODEL:
            continue
        module, others = _MODULES[name]
        found += [_path(module), *others]
    return found


def score(prompt: Prompt, answer: str) -> Reward:
    """Return the reward of an answer, in this process and however long it takes.

    Args:
        prompt: whose gold answer was checked.
        answer: the policy's text without the token that ends it; other special tokens spelled out.

    Raises:
        BadGold: the gold answer cannot be used.
        ImportError, OSError: a library or the disk fails, which says nothing of the answer.
    """
    question = question_of(prompt)
    refused = refuse(answer, question)
    if refused:
        return refused
    module = _load(prompt.reward)
    gold = _gold(prompt)
    try:
        return module.score(answer, gold, question)
    except NoAnswer as error:
        return unreadable(str(error))
    except SeveralAnswers as error:
        return wrong(str(error))
    except (MemoryError, RecursionError, OverflowError) as error:
        return timed_out(f"it is too much ({type(error).__name__})")
    except (ImportError, OSError, BadGold):
        raise
    # libraries raise anything at text that nobody has written before
    except Exception as error:
        return unreadable(f"it makes {prompt.reward} fail ({type(error).__name__}: {error!s:.100})")


def check(prompt: Prompt) -> None:
    """Raise BadGold unless the gold answer can be read, and is right by its own reward function."""
    if prompt.reward == REWARD_MODEL:
        return
    gold = _gold(prompt)
    try:
        text = _load(prompt.reward).example(gold)
    except (ImportError, OSError, BadGold):
        raise
    # libraries raise anything at a gold that is not what its type says
    except Exception as error:
        words = " ".join(str(error).split())
        raise BadGold(f"it makes {prompt.reward} fail ({words:.100})") from error
    if not text:
        return
    reward = score(prompt, text)
    if reward.outcome != Outcome.RIGHT:
        raise BadGold(f"its own answer is {reward.outcome}: {reward.reason}")


def _gold(prompt: Prompt) -> Any:
    """Return the gold answer as its module has it."""
    module = _load(prompt.reward)
    unknown = set(prompt.gold) - set(module.Gold.__dataclass_fields__)
    if unknown:
        raise BadGold(
            f"its gold has a key {min(unknown)!r:.60}, which {prompt.reward} does not read"
        )
    try:
        return parse_record(module.Gold, prompt.gold, "its gold", "repair it")
    except UserError as error:
        raise BadGold(str(error)) from error


@lru_cache
def _load(name: str) -> _Module:
    require_known([name], "a prompt")
    module, _ = _MODULES[name]
    return cast(_Module, importlib.import_module(_path(module)))


def _path(module: str) -> str:
    return f"{__package__}.{module}"
