"""lm-eval 0.4.13 describes the machine with every result; this patch does so once a process."""

import functools

from recipes.compat.patching import replace, require_versions

PATCHED_BY = "recipes/compat/lm_eval.py"
WRITTEN_FOR = {"lm-eval": "0.4.13"}


def describe_machine_once() -> None:
    """Cache the description of the machine, a second of subprocesses.

    Upstream: ``lm_eval/loggers/utils.py``, ``add_env_info`` imports ``get_pretty_env_info`` from
    ``torch/utils/collect_env.py`` and calls it for each task.

    Raises:
        RuntimeError: another lm-eval is installed, or torch has no such function.
    """
    from torch.utils import collect_env

    require_versions(WRITTEN_FOR, PATCHED_BY)
    cached = functools.cache(collect_env.get_pretty_env_info)
    replace(collect_env, "get_pretty_env_info", cached, PATCHED_BY)
