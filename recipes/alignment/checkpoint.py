"""NeMo 2 checkpoints of models that NeMo-Aligner trains: what loads and exports those of
pre-training loads and exports these.

A checkpoint of a stage is a folder ``checkpoints/step=00000010``: ``weights/`` in Megatron's
distributed form, for any parallel sizes, and ``context/``, the NeMo 2 configuration and the
tokenizer. With the weights it holds the optimizer's state and the progress; no random states, as
nothing in training draws from them: there is no dropout, and orders and samples have their own
seeds.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from nemo import lightning as nl
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.lightning.io.pl import MegatronCheckpointIO, TrainerContext

from recipes.alignment.model import AlignedGranite, granite_config
from recipes.alignment.optimizer import StageOptimizer
from recipes.compat import megatron_checkpoint
from recipes.model.bridge.to_hf import read_context
from recipes.model.nemo import GraniteModel
from recipes.runs.stage_folder import CHECKPOINTS, CHECKPOINTS_KEPT
from recipes.spec.recipe import CommonRecipe
from recipes.training.full_disk import is_first_rank, remove_unfinished
from recipes.training.schedule import TokenSchedule

# NeMo 2 saves its Lightning module, which holds the Megatron model under this name
_PREFIX = "module."


@dataclass(frozen=True)
class Training:
    """A model in training, with all that a checkpoint holds of it but its progress."""

    model: AlignedGranite
    optimizer: StageOptimizer
    scheduler: TokenSchedule


def load_weights(model: AlignedGranite, checkpoint: Path) -> None:
    """Load the weights of a NeMo 2 checkpoint, and nothing else of it; its folder stays as it is.

    Args:
        model: of :func:`recipes.alignment.model.build_model`.
        checkpoint: saved with any parallel sizes.
    """
    sharded = model.core.sharded_state_dict(prefix=_PREFIX)
    state = MegatronCheckpointIO().load_checkpoint(
        checkpoint, sharded_state_dict={"state_dict": sharded}
    )
    _put_weights(model, state["state_dict"])


def load_training(training: Training, checkpoint: Path) -> dict[str, int]:
    """Load a checkpoint that :class:`CheckpointWriter` wrote; return its progress."""
    sharded = training.model.core.sharded_state_dict(prefix=_PREFIX)
    state = MegatronCheckpointIO().load_checkpoint(
        checkpoint,
        sharded_state_dict={
            "state_dict": sharded,
            "optimizer": [_optimizer_state(training.optimizer, sharded, is_loading=True)],
        },
    )
    _put_weights(training.model, state["state_dict"])
    training.optimizer.load_state_dict(state["optimizer"][0])
    training.scheduler.load_state_dict(state["lr_schedulers"][0])
    return state["progress"]


def _put_weights(model: AlignedGranite, weights: dict[str, Any]) -> None:
    model.core.load_state_dict(
        {name.removeprefix(_PREFIX): value for name, value in weights.items()}
    )


def _optimizer_state(
    optimizer: StageOptimizer, sharded: dict[str, Any], is_loading: bool = False
) -> dict[str, Any]:
    # what TransformerEngine keeps beside a weight is nothing that an optimizer has a state for
    parameters = {
        name: value for name, value in sharded.items() if not name.endswith("_extra_state")
    }
    # not NeMo's own method, which asks for a form that only the distributed optimizer has
    return optimizer.mcore_optimizer.sharded_state_dict(parameters, is_loading=is_loading)


class CheckpointWriter:
    """Writes the checkpoints of a stage, and keeps the newest few.

    Args:
        folder: of the stage.
        recipe: of the stage.
        initial: the checkpoint that the stage starts or continues from. Its tokenizer, and the
            number of positions that its model is made for, go into every checkpoint.
    """

    def __init__(self, folder: Path, recipe: CommonRecipe, initial: Path) -> None:
        """Prepare for writing, and remove what a kill left half written."""
        megatron_checkpoint.install()
        self._folder = folder / CHECKPOINTS
        if not is_first_rank():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self._folder)
        model, tokenizer = read_context(initial / "context")
        # shorter sequences than before do not make the model's own length shorter
        positions = max(model.max_position_embeddings, recipe.sequence_length.value)
        context = TrainerContext(
            model=GraniteModel(
                granite_config(recipe, positions), tokenizer=AutoTokenizer(str(tokenizer))
            ),
            trainer=nl.Trainer(accelerator="cpu", devices=1, logger=False),
            extra={},
        )
        # now, as the checkpoint with the tokenizer may be an older one that is removed
        self._scratch = TemporaryDirectory(prefix="granite41-")
        self._context = Path(self._scratch.name) / "context"
        context.io_dump(self._context, yaml_attrs=["model"])

    def save(self, training: Training, step: int, progress: dict[str, int]) -> None:
        """Save a checkpoint of a step, on all ranks together.

        Args:
            progress: whole numbers, which :func:`load_training` returns.
        """
        checkpoint = self._folder / f"step={step:08d}"
        # the same mark as NeMo's own
        unfinished = checkpoint.with_name(f"{checkpoint.name}-unfinished")
        if is_first_rank():
            unfinished.touch()
        torch.distributed.barrier()

        sharded = training.model.core.sharded_state_dict(prefix=_PREFIX)
        state = {
            "sharded_state_dict": sharded,
            "optimizer": [_optimizer_state(training.optimizer, sharded)],
            "lr_schedulers": [training.scheduler.state_dict()],
            "progress": progress,
        }
        MegatronCheckpointIO().save_checkpoint(state, checkpoint)
        if is_first_rank():
            shutil.copytree(self._context, checkpoint / "context")
            unfinished.unlink()
            self._remove_older()
        torch.distributed.barrier()

    def _remove_older(self) -> None:
        whole = sorted(self._folder.glob("step=*/weights/metadata.json"))
        for path in whole[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(path.parents[1])
