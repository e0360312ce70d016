"""NeMo-Aligner's progress bars, which would write into a log file for every step.

nemo_aligner/algorithms/supervised.py of NeMo-Aligner 0.7.0 shows bars of tqdm, with no option
against them.
"""

import functools

from tqdm import tqdm

from recipes.compat.patching import replace, require_versions

WRITTEN_FOR = {"nemo-aligner": "0.7.0"}
PATCHED_BY = "recipes/compat/nemo_aligner.py"


def install() -> None:
    """Switch the bars off.

    Raises:
        RuntimeError: another version of NeMo-Aligner, or one without the name.
    """
    require_versions(WRITTEN_FOR, PATCHED_BY)
    from nemo_aligner.algorithms import supervised

    replace(supervised, "tqdm", functools.partial(tqdm, disable=True), PATCHED_BY)
