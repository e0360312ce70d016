"""Any model as a Hugging Face folder: a stage of a run, a NeMo checkpoint, a folder, or a name on the Hub."""

from collections.abc import Callable
from pathlib import Path

from recipes.spec import STAGES, UserError
from recipes.spec.errors import nearest
from recipes.training.stage_folder import final_checkpoint, finished_manifest


def hf_folder_of(
    model: str, run_folder: Path, output: Path, *, unmerged: bool = False, say: Callable[[str], None] = print
) -> Path:
    """Return the Hugging Face folder of ``model``; a NeMo checkpoint is exported once and found again.

    Args:
        model: a stage's name, a folder (Hugging Face's, a NeMo checkpoint or a finished stage's), or ``hf:NAME``.
        run_folder: where the stages' folders are.
        output: folder that receives the export of a checkpoint that has none of its own.
        unmerged: of a stage, the checkpoint before its merge.
        say: called with a line of progress.

    Raises:
        UserError: no such stage, folder or model; the stage has not finished, or has no merge to leave out.
    """
    if model.startswith("hf:"):
        from recipes.model.bridge.hf_folder import local_folder

        return local_folder(model.removeprefix("hf:"))
    folder = run_folder / model if model in STAGES else Path(model)
    if model in STAGES and not folder.is_dir():
        raise UserError(f"{folder}: not found, so {model} was not trained in this run; name its run with --run-dir")
    if not folder.exists():
        raise UserError(
            f"{model}: neither a stage{nearest(model, STAGES)} nor a folder; name one of them, or hf:NAME of the Hub"
        )
    if (folder / "config.json").is_file() and not unmerged:
        return folder
    checkpoint = final_checkpoint(folder)
    if unmerged:
        if checkpoint is None or checkpoint == (trained := folder / finished_manifest(folder)["checkpoint"]):
            raise UserError(f"{folder}: has no merge, so there is nothing unmerged in it; leave out --unmerged")
        return _exported(trained, folder / "hf_unmerged", say)
    if checkpoint is None:
        if not (folder / "weights").is_dir():
            raise UserError(
                f"{folder}: holds neither a Hugging Face config.json nor a NeMo checkpoint's weights/; "
                f"name one of these or a stage"
            )
        return _exported(folder, output, say)
    return _exported(checkpoint, folder / "hf", say)


def _exported(checkpoint: Path, output: Path, say: Callable[[str], None]) -> Path:
    if not output.exists():
        from recipes.model.bridge.to_hf import export_hf

        say(f"exporting {checkpoint} to {output}")
        export_hf(checkpoint, output, say=lambda line: None)
    return output
