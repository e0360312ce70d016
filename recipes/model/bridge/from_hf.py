"""Hugging Face folder -> NeMo 2 checkpoint."""

from pathlib import Path

from recipes.common.files import atomic_directory
from recipes.model_folder.weights import open_granite


def import_hf(source: Path, output: Path, *, dtype: str | None = None) -> None:
    """Write the NeMo 2 checkpoint ``output`` from the Hugging Face folder ``source``.

    The whole model is in memory while it is written.

    Args:
        source: a GraniteForCausalLM with safetensors and its tokenizer.
        output: new folder with ``weights/`` and ``context/``, for AutoResume's ``restore_config``
            and for export.
        dtype: torch's name of the stored type; by default each tensor keeps its own.

    Raises:
        UserError: ``source`` is not such a folder, ``output`` exists, or there is no space left.
    """
    opened = open_granite(source)
    # takes 20 s, so after what can be refused without it
    from recipes.model.nemo import HFGraniteImporter

    with atomic_directory(output) as temporary:
        HFGraniteImporter(str(source)).apply(temporary, dtype=dtype, opened=opened)
