"""A model's folder as transformers 4 reads it right: what is evaluated is what is trained on."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.common.json_files import write_json
from recipes.model_folder.config import CONFIG
from recipes.model_folder.files import settings_files
from recipes.model_folder.weights import INDEX, OpenedFolder

log = logging.getLogger(__name__)


@contextmanager
def transformers_view(opened: OpenedFolder) -> Iterator[Path]:
    """Yield a temporary folder with links to a model's files and config.json in transformers 4's
    form.

    transformers 4 passes over ``rope_parameters`` and ``dtype`` of a config that transformers 5
    wrote, without a word. The view has no file beside those that are known, so no code. An
    exception that names the view is changed to name the folder.
    """
    folder = opened.folder
    types = sorted({tensor.dtype for tensor in opened.tensors.values()})
    if len(types) > 1:
        log.warning("%s: holds %s, but is computed in one type", folder, " and ".join(types))
    # what is linked is what was checked
    names = [name for name in settings_files(folder) if name != CONFIG]
    names += [file.path.name for file in opened.files]
    if len(opened.files) > 1:
        names.append(INDEX)

    with tempfile.TemporaryDirectory(prefix="granite41-model-") as temporary:
        view = Path(temporary)
        write_json(view / CONFIG, opened.values)
        for name in names:
            link = view / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to((folder / name).absolute())
        try:
            yield view
        except Exception as error:
            error.args = tuple(_renamed(part, view, folder) for part in error.args)
            raise


def _renamed(part: Any, view: Path, folder: Path) -> Any:
    return part.replace(str(view), str(folder)) if isinstance(part, str) else part
