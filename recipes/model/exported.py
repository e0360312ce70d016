"""Any model as a Hugging Face folder: a stage of a run, a NeMo checkpoint, a folder, or a name on
the Hub.
"""

from pathlib import Path

from recipes.common.errors import UserError, nearest
from recipes.registry.stages import STAGES
from recipes.runs.stage_folder import final_checkpoint, finished_manifest


def exported_folder(
    model: str, run_folder: Path, output: Path, *, unmerged: bool = False
) -> tuple[Path, Path | None]:
    """Return the Hugging Face folder of ``model``, and the checkpoint to export to it first.

    The latter is None when the folder exists: a checkpoint is exported once.

    Args:
        model: a stage's name, a folder (Hugging Face's, a NeMo checkpoint or a finished stage's),
            or ``hf:NAME``.
        run_folder: where the stages' folders are.
        output: folder for the export of a checkpoint that is in no stage's folder.
        unmerged: of a stage, the checkpoint before its merge.

    Raises:
        UserError: no such stage, folder or model; the stage has not finished, or has no merge to
            leave out.
    """
    if model.startswith("hf:"):
        from recipes.model_folder.hub import local_folder

        return local_folder(model.removeprefix("hf:")), None
    folder = _existing_folder(model, run_folder)

    if unmerged:
        target = folder / "hf_unmerged"
        checkpoint = _unmerged_checkpoint(folder)
    elif (folder / "config.json").is_file():
        return folder, None
    else:
        target = folder / "hf"
        final = final_checkpoint(folder)
        if final is None:
            _require_weights(folder)
            target = output
        checkpoint = final or folder
    return target, None if target.exists() else checkpoint


def _existing_folder(model: str, run_folder: Path) -> Path:
    """Return the folder of a stage of the run, or the folder that ``model`` names."""
    folder = run_folder / model if model in STAGES else Path(model)
    if model in STAGES and not folder.is_dir():
        raise UserError(
            f"{folder}: not found, so {model} was not trained in this run; name its run with "
            f"--run-dir"
        )
    if not folder.exists():
        raise UserError(
            f"{model}: neither a stage{nearest(model, STAGES)} nor a folder; name one of them, or "
            f"hf:NAME of the Hub"
        )
    return folder


def _unmerged_checkpoint(folder: Path) -> Path:
    """Return the last checkpoint of a finished stage that ends with a merge, made or not."""
    manifest = finished_manifest(folder)
    if not manifest or STAGES[manifest.stage].kind != "long_context":
        raise UserError(
            f"{folder}: has no merge, so there is nothing unmerged in it; leave out --unmerged"
        )
    return folder / str(manifest.checkpoint)


def _require_weights(folder: Path) -> None:
    if not (folder / "weights").is_dir():
        raise UserError(
            f"{folder}: holds neither a Hugging Face config.json nor a NeMo checkpoint's weights/; "
            f"name a folder with one of them, or a stage"
        )
