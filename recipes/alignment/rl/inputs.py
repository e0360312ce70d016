"""What a stage of reinforcement learning reads, after it was checked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.common.tokenizer_files import TokenizerFolder
from recipes.runs.prompts import Prompt, PromptFolder

# a prompt to the ids that ask for an answer, int32, shape (tokens,)
Encode = Callable[[Prompt], np.ndarray]


@dataclass(frozen=True)
class StageInputs:
    """What a stage reads.

    Attributes:
        prompts: that are answered.
        encode: for the prompts.
        reference: the checkpoint that the stage starts from.
        tokenizer: of that checkpoint.
        reward_model: where it is and its name, see
            :func:`recipes.alignment.rewards.reward_model.open_reward_model`; None without one.
    """

    prompts: PromptFolder
    encode: Encode
    reference: Path
    tokenizer: TokenizerFolder
    reward_model: tuple[str, str] | None
