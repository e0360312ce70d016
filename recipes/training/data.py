"""The data module of pre-training: NeMo's, with the mixture exact at any point and no silent
repeats.
"""

import hashlib
import json
import logging
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.datasets import helpers
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.utils import Split, normalize
from nemo.collections.llm.gpt.data.pre_training import PreTrainingDataModule
from nemo.utils.get_rank import is_global_rank_zero

from recipes.common.files import atomic_write
from recipes.training.windows import Window, epochs_with_repeats, window

log = logging.getLogger(__name__)

EPOCH_DECIMALS = 9  # tells one document of 1e8 apart, and not the rounding of a sum


class WindowedDataset(GPTDataset):
    """Megatron's samples of one shard; those for training are of the window of documents whose turn
    it is.

    The window starts where ``config.shards`` says, in an order that is the same for every stage,
    and holds the tokens of ``num_samples`` samples. The validation part is all of Megatron's.
    """

    indices: np.ndarray
    window: Window

    def _build_document_sample_shuffle_indices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shard = self.config.shards[self.dataset_path]
        self.unique_identifiers["component"] = shard["component"]
        if self.index_split is Split.train:
            # files have an order, by source or date, and every stage is to read a fair part: one
            # shuffle for all stages
            order = np.random.RandomState(0).permutation(len(self.indices))
            shuffled = self.indices[order]

            # a sample is one token longer than the sequence, as labels are shifted by one
            tokens = self.num_samples * self.config.sequence_length
            tokens += self.config.add_extra_token_to_sequence
            lengths = self.dataset.sequence_lengths[shuffled]
            self.window = window(lengths, shard["next_document"], tokens)
            self.indices = shuffled[self.window.documents]
            self.unique_identifiers["window"] = [int(self.indices[0]), len(self.indices)]

        # Megatron names its cached indices by this description, and wrote it before the window was
        # known
        self.unique_description = json.dumps(
            self.unique_identifiers, default=lambda tokenizer: tokenizer.unique_identifiers
        )
        description = self.unique_description.encode()
        self.unique_description_hash = hashlib.md5(description, usedforsecurity=False).hexdigest()
        return super()._build_document_sample_shuffle_indices()


class ComponentBlend(BlendedDataset):
    """Megatron's blend in two steps: the component of each sample, then the component's shard.

    In one step, as Megatron does it, components of many shards take turns of as many samples as
    they have shards: of two with a thousand shards each, the first fills a whole batch and then the
    other does.
    """

    def _build_indices(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.config.path_to_cache:
            return self._blend()
        base = f"{self.unique_description_hash}-{type(self).__name__}-{self.split.name}"
        paths = [
            Path(self.config.path_to_cache, f"{base}-{part}_index.npy")
            for part in ("dataset", "dataset_sample")
        ]
        # the builder sends rank 0 first
        if _rank() == 0 and not all(path.exists() for path in paths):
            for path, index in zip(paths, self._blend(), strict=True):
                with atomic_write(path) as temporary, temporary.open("wb") as file:
                    np.save(file, index)
        dataset, number = (np.load(path, mmap_mode="r") for path in paths)
        return dataset, number

    def _blend(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each sample's data set and its number in it, both of shape (size,)."""
        names = np.array([dataset.unique_identifiers["component"] for dataset in self.datasets])
        lengths = np.array([len(dataset) for dataset in self.datasets])
        weights = np.array(self.weights)

        # component -> its shards, as indices of data sets
        shards_of = [np.flatnonzero(names == name) for name in dict.fromkeys(names)]
        component_of_sample, number = _evenly(
            [weights[shards].sum() for shards in shards_of], self.size
        )

        # then the shard of each of a component's samples, by the shards' own weights
        dataset = np.empty_like(component_of_sample)
        for component, shards in enumerate(shards_of):
            samples = np.flatnonzero(component_of_sample == component)
            shard, turn = _evenly(weights[shards], len(samples))
            dataset[samples] = shards[shard]
            # training has enough of every shard (see _surplus); a small validation part is read
            # around
            if self.split is not Split.train:
                turn = turn % lengths[shards[shard]]
            number[samples] = turn

        samples_taken = np.bincount(dataset, minlength=len(lengths))
        if self.split is Split.train and np.any(samples_taken > lengths):
            raise IndexError(
                "the blend takes more samples of a shard than were built: _surplus is too small"
            )
        return dataset, number


class ComponentBlendBuilder(BlendedMegatronDatasetBuilder):
    """Megatron's builder with :class:`ComponentBlend` in the place of its blend."""

    @staticmethod
    def build_generic_dataset(cls: Any, *args: Any) -> Any:
        """Build a data set as Megatron does."""
        if cls is BlendedDataset:
            cls = ComponentBlend
        return BlendedMegatronDatasetBuilder.build_generic_dataset(cls, *args)


class GraniteDataModule(PreTrainingDataModule):
    """Megatron ``.bin/.idx`` data as NeMo reads it, in windows and blended by component.

    Without TransformerEngine NeMo 2.4.1 makes every sample carry a boolean [1, sequence, sequence]
    mask. Attention is causal by itself here, so no sample needs one.

    Args:
        shards: prefix -> ``component``, and how far earlier stages read its training part:
            ``next_document`` and ``epochs``. A prefix that is not in it is a component of its own
            that no stage has read.

    Attributes:
        read: prefix -> ``next_document`` and ``epochs`` after this stage; known once the data is
            set up.
        repeats: component -> epochs after this stage, for those of which it reads documents again.
    """

    def __init__(
        self, *args: Any, shards: Mapping[str, Mapping[str, Any]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.create_attention_mask = False
        self.shards: dict[str, dict[str, Any]] = {}
        for prefix in self.build_kwargs["blend"][0]:
            unread = {"component": prefix, "next_document": 0, "epochs": 0.0}
            self.shards[prefix] = unread | dict((shards or {}).get(prefix, {}))

    def build(
        self,
        trainer_max_steps: int,
        trainer_val_check_interval: int,
        trainer_limit_val_batches: int,
        trainer_limit_test_batches: int,
    ) -> None:
        """Build the data sets for the trainer's batches; log which components are read again."""
        # the stage's last step is validated at any interval
        validations = trainer_max_steps // trainer_val_check_interval + 1
        batches = (
            trainer_max_steps,
            validations * trainer_limit_val_batches,
            trainer_limit_test_batches,
        )
        samples = [int(count * self.data_sampler.global_batch_size) for count in batches]
        _raise_file_limit()

        config = self.gpt_dataset_config
        config.shards = self.shards
        weights = config.blend[1]
        if weights:
            surplus = _surplus(weights, samples[0])
            config.mid_level_dataset_surplus = max(config.mid_level_dataset_surplus, surplus)
        builder = ComponentBlendBuilder(
            WindowedDataset, samples, is_built_on_rank=lambda: True, config=config
        )
        self._train_ds, self._validation_ds, self._test_ds = builder.build()

        self.read = {}
        # one shard without a weight is no blend
        datasets = [self._train_ds]
        if weights:
            datasets = self._train_ds.datasets
        for dataset in datasets:
            prefix = dataset.dataset_path
            epochs = self.shards[prefix]["epochs"] + dataset.window.epochs
            self.read[prefix] = {
                "next_document": dataset.window.next_document,
                "epochs": round(epochs, EPOCH_DECIMALS),
            }
        self.repeats = epochs_with_repeats(self.shards, self.read)
        if is_global_rank_zero():
            self._log_repeats()

    def _log_repeats(self) -> None:
        read_before = set()
        for shard in self.shards.values():
            if shard["epochs"]:
                read_before.add(shard["component"])
        for name, epochs in self.repeats.items():
            documents = "documents"
            if name in read_before:
                documents = "documents of earlier stages"
            log.info("%s: %.2f epochs after this stage; %s are read again", name, epochs, documents)


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets: a shard has its two files and six indices."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _evenly(weights: Sequence[float] | np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Deal ``size`` samples to weights, in turns that keep every weight's share at any point.

    Returns:
        The index of each sample's weight, and how many samples that weight had before; both of
        shape (size,).
    """
    turn = np.zeros(size, np.int16)
    number = np.zeros(size, np.int64)
    helpers.build_blending_indices(
        turn,
        number,
        normalize(weights),
        len(weights),
        size,
        False,
    )
    return turn, number


def _surplus(weights: Sequence[float], size: int) -> float:
    """Return the share of samples to build of each shard beyond those that Megatron reserves.

    It reserves ceil(weight x size) of a shard, blends as many samples as that is over all shards,
    and so takes up to weight x their sum of one: more than its own where light shards were rounded
    up.
    """
    share = np.array(normalize(weights))
    reserved = np.ceil(size * share)
    taken = share * reserved.sum()
    return float((taken / reserved).max()) - 1


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
