"""NeMo 1's models on a machine without CUDA, Apex and NVIDIA's container.

Two patches to NeMo 2.4.1, on top of :mod:`recipes.compat.cpu`, let ``MegatronGPTModel`` be built
and run.
"""

import torch
from megatron.core.tensor_parallel.layers import (
    set_defaults_if_not_set_tensor_model_parallel_attributes,
)

from recipes.compat import cpu
from recipes.compat.patching import replace

PATCHED_BY = "recipes/compat/nemo1.py"


def install() -> None:
    """Patch NeMo 1 for the CPU; nothing where CUDA is available.

    Raises:
        RuntimeError: an installed library is not the version that the patches were written for, or
            lacks a name.
    """
    if torch.cuda.is_available():
        return
    cpu.install()
    from nemo.collections.nlp.models.language_modeling.megatron_base_model import MegatronBaseModel
    from nemo.collections.nlp.modules.common.megatron import build_model

    # nemo/collections/nlp/models/language_modeling/megatron_base_model.py: matches a pattern
    # against NVIDIA_PYTORCH_VERSION, None outside of NVIDIA's container, to set up what containers
    # before 23.11 need
    replace(
        MegatronBaseModel,
        "_enable_nvidia_optimizations",
        lambda self: None,
        patched_by=PATCHED_BY,
    )

    # nemo/collections/nlp/modules/common/megatron/build_model.py: imports this function from Apex
    # or not at all, so the name may be missing in the module but not in the function that calls it;
    # Megatron-Core has the same
    set_defaults = set_defaults_if_not_set_tensor_model_parallel_attributes
    if set_defaults.__name__ not in build_model.build_model.__code__.co_names:
        raise RuntimeError(
            f"{PATCHED_BY} patches build_model.{set_defaults.__name__}, which is not there any more"
        )
    setattr(build_model, set_defaults.__name__, set_defaults)
