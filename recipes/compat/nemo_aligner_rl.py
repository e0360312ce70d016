"""NeMo-Aligner's reinforcement learning without TensorRT-LLM, and without progress bars.

nemo_aligner/utils/trt_llm.py of NeMo-Aligner 0.7.0, which actor and trainer import, imports
tensorrt_llm when it is loaded and needs it only where ``trt_llm.enable`` asks for it. Rollouts here
come from other engines (:mod:`recipes.alignment.rollout`). The bars are those of
:mod:`recipes.compat.nemo_aligner`.
"""

import functools
import importlib.util
import sys
from types import ModuleType
from typing import Any

from tqdm import tqdm

from recipes.compat.nemo_aligner import WRITTEN_FOR
from recipes.compat.patching import replace, require_versions

PATCHED_BY = "recipes/compat/nemo_aligner_rl.py"
TRT_LLM = "nemo_aligner.utils.trt_llm"


class GPTGenerateTRTLLM:
    """In place of Aligner's class of this name, which nothing here makes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("TensorRT-LLM is not installed, and no rollout here needs it")


def install() -> None:
    """Put a module in the place of Aligner's where TensorRT-LLM is missing; switch the bars off.

    Raises:
        RuntimeError: another version of NeMo-Aligner, or one without the name.
    """
    require_versions(WRITTEN_FOR, PATCHED_BY)
    if importlib.util.find_spec("tensorrt_llm") is None:
        module = ModuleType(TRT_LLM)
        setattr(module, GPTGenerateTRTLLM.__name__, GPTGenerateTRTLLM)
        sys.modules.setdefault(TRT_LLM, module)

    from nemo_aligner.algorithms import reinforce

    replace(reinforce, "tqdm", functools.partial(tqdm, disable=True), PATCHED_BY)
