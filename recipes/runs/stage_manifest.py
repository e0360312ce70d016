"""``manifest.json`` of a stage's folder: its data, initial state, progress and result."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recipes.common.errors import UserError
from recipes.common.json_files import parse_record, read_json, write_record
from recipes.spec.recipe import OptimizerState

MANIFEST = "manifest.json"
RANDOM_WEIGHTS = "random weights"

# key of an earlier version of this project -> its key now
_FORMER_KEYS = {
    "start": "initial_state",
    "starts": "num_starts",
    "ledger": "data_progress",
    "ledger_before": "data_progress_before",
    "read_again": "repeated_components",
}
_REMEDY = "remove it to run the stage again, or name another --run-dir"


@dataclass(frozen=True)
class InitialCheckpoint:
    """The checkpoint that a stage starts from.

    Attributes:
        checkpoint: path of a NeMo checkpoint, or :data:`RANDOM_WEIGHTS`.
        optimizer_state: whether the optimizer's moments come from it (``carry``) or start at zero.
    """

    checkpoint: str
    optimizer_state: OptimizerState = "fresh"


@dataclass(frozen=True)
class TrainingShard:
    """A shard of the data that a stage trains on.

    Attributes:
        weight: its share of the stage's tokens.
        component: of the mixture.
        bin_sha256, idx_sha256: of its two files.
    """

    weight: float
    component: str
    bin_sha256: str
    idx_sha256: str


@dataclass(frozen=True)
class PackedData:
    """The packed conversations that a stage trains on.

    Attributes:
        fingerprint: of :class:`recipes.runs.packed_folder.PackedFolder`.
        sequences: in the folder.
        held_out: of them, for validation.
        conversations: in all sequences.
        trained_share: share of the tokens that the loss counts.
        epochs: how often the stage reads the sequences that are not held out.
    """

    fingerprint: str
    sequences: int
    held_out: int
    conversations: int
    trained_share: float
    epochs: float


@dataclass(frozen=True)
class ShardProgress:
    """How far a run has read a shard.

    Attributes:
        prefix: of its files, relative to the data folder.
        next_document: index of the first document of the training part that is not read yet.
        epochs: how often the training part has been read.
    """

    prefix: str
    next_document: int
    epochs: float


@dataclass(frozen=True)
class PromptData:
    """The prompts that a stage of reinforcement learning has answered.

    Attributes:
        fingerprint: SHA-256 of the prompts.
        prompts: how many there are.
        domains: domain -> prompts.
        passes: how often the stage goes through them.
    """

    fingerprint: str
    prompts: int
    domains: dict[str, int]
    passes: float


@dataclass(frozen=True)
class ReferencePolicy:
    """The checkpoint that a policy is kept close to.

    Attributes:
        checkpoint: path of a NeMo checkpoint.
        sha256: of its weights, see :mod:`recipes.alignment.rl.reference`.
    """

    checkpoint: str
    sha256: str


@dataclass(frozen=True)
class StageManifest:
    """A stage as its folder describes it; written at each start and at its end.

    Attributes:
        stage, size, parent: names of the stage, the model's size and the stage before.
        status: ``running``, also after a kill; ``stopped`` by a signal; ``failed``; ``finished``.
        tokens: that the stage trains on.
        tokens_before: that the run has trained on before it.
        tokenizer_fingerprint: of :class:`recipes.common.tokenizer_files.TokenizerFolder`.
        initial_state: the checkpoint that the stage starts from.
        data: prefix of each shard that the stage trains on -> the shard.
        packed: the conversations that it trains on in place of shards; None where it has none.
        data_progress_before: ``bin_sha256`` -> how far the stages before have read the shard.
        data_progress: ``bin_sha256`` -> how far it is read at the end of the stage.
        repeated_components: component -> epochs, for those that the stage reads more than once.
        num_starts: how often the stage was started.
        seconds: of training, summed over all starts.
        checkpoint: the last one, relative to the stage's folder.
        validation_loss: the last one, in nats per token.
        unigram_entropy: of the data, in nats per token; None where it is not known.
        error: why the stage failed.
        prompts: that a stage of reinforcement learning trains on.
        reference: its reference policy.
    """

    stage: str
    size: str
    status: Literal["running", "stopped", "failed", "finished"]
    parent: str | None
    tokens: int
    tokens_before: int
    tokenizer_fingerprint: str
    initial_state: InitialCheckpoint
    data: dict[str, TrainingShard]
    packed: PackedData | None = None
    data_progress_before: dict[str, ShardProgress] = field(default_factory=dict)
    data_progress: dict[str, ShardProgress] = field(default_factory=dict)
    repeated_components: dict[str, float] = field(default_factory=dict)
    num_starts: int = 0
    seconds: float = 0.0
    checkpoint: str | None = None
    validation_loss: float | None = None
    unigram_entropy: float | None = None
    error: str | None = None
    prompts: PromptData | None = None
    reference: ReferencePolicy | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the stage has trained on all of its tokens."""
        return self.status == "finished"


def read_manifest(folder: Path) -> StageManifest | None:
    """Return a stage's manifest, or None when ``folder`` holds none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    values = with_present_keys(read_json(path, _REMEDY))
    manifest = parse_record(StageManifest, values, str(path), _REMEDY)
    # every reader of a finished stage loads its checkpoint
    if manifest.is_finished and manifest.checkpoint is None:
        raise UserError(f"{path}: the stage is finished but names no checkpoint; {_REMEDY}")
    return manifest


def with_present_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON object of a manifest with the keys that :class:`StageManifest` has."""
    return {_FORMER_KEYS.get(key, key): value for key, value in values.items()}


def write_manifest(folder: Path, manifest: StageManifest) -> None:
    """Write a stage's manifest, whole or not at all."""
    write_record(folder / MANIFEST, manifest)
