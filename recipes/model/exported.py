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
    """Return the Hugging Face folder of ``model``, and the NeMo checkpoint that has to be exported
    to it first.

    The latter is None when the folder is there; a checkpoint is exported once and found again.

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
        from recipes.model.bridge.hf_folder import local_folder

        return local_folder(model.removeprefix("hf:")), None
    folder = run_folder / model if model in STAGES else Path(model)
    if model in STAGES and not folder.is_dir():
        raise UserError(
            f"{folder}: not found, so {model} was not trained in this run; name its run with "
            "--run-dir"
        )
    if not folder.exists():
        raise UserError(
            f"{model}: neither a stage{nearest(model, STAGES)} nor a folder; name one of them, or "
            "hf:NAME of the Hub"
        )
    if (folder / "config.json").is_file() and not unmerged:
        return folder, None
    checkpoint, target = final_checkpoint(folder), folder / "hf"
    if unmerged:
        manifest, target = finished_manifest(folder), folder / "hf_unmerged"
        # the merge itself may be yet to come
        if not manifest or STAGES[manifest.stage].kind != "long_context":
            raise UserError(
                f"{folder}: has no merge, so there is nothing unmerged in it; leave out --unmerged"
            )
        checkpoint = folder / str(manifest.checkpoint)
    elif checkpoint is None:
        if not (folder / "weights").is_dir():
            raise UserError(
                f"{folder}: holds neither a Hugging Face config.json nor a NeMo checkpoint's "
                "weights/; name a folder with one of them, or a stage"
            )
        checkpoint, target = folder, output
    return target, None if target.exists() else checkpoint
