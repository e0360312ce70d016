"""Hub data sets, streamed by ``datasets``: ``hf:REPOSITORY[/GLOB][@REVISION][:CONFIG[:SPLIT]]``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError

HUB = "hf:"


@dataclass(frozen=True)
class HubInput:
    """The name of a data set, in its pieces.

    Attributes:
        repository: the data set's name; an absolute path is a local folder.
        glob: of files in the repository; empty for the data set itself.
        revision: a commit; empty where none is pinned.
        configuration: empty for the default one.
        split: such as ``train``.
    """

    repository: str
    glob: str
    revision: str
    configuration: str
    split: str

    @classmethod
    def parse(cls, name: str) -> "HubInput":
        """Return the pieces of ``name``.

        Raises:
            UserError: it has another form.
        """
        path, _, rest = name.removeprefix(HUB).partition(":")
        configuration, _, split = rest.partition(":")
        path, _, revision = path.partition("@")
        # on the Hub a name has two words, and what follows is a pattern of files
        repository = path
        glob = ""
        if not path.startswith("/"):
            owner, _, rest = path.partition("/")
            short, _, glob = rest.partition("/")
            repository = owner
            if short:
                repository += f"/{short}"
        if not repository or ":" in split:
            raise UserError(
                f"{name}: expected hf:NAME[:CONFIGURATION[:SPLIT]], such as hf:allenai/c4:en:train"
            )
        return cls(repository, glob, revision, configuration, split or "train")

    def __str__(self) -> str:
        name = f"{HUB}{self.repository}"
        if self.glob:
            name += f"/{self.glob}"
        if self.revision:
            name += f"@{self.revision}"
        return f"{name}:{self.configuration}:{self.split}"

    @property
    def folder(self) -> Path | None:
        """The folder of a local data set, which has no commit."""
        if self.repository.startswith("/"):
            return Path(self.repository)
        return None


def pin(name: str) -> tuple[str, int]:
    """Return a data set's name with its present commit, and how many shards it has.

    All shards, and a run that is resumed, read the same commit.

    Raises:
        UserError: the data set cannot be reached.
    """
    hub_input = HubInput.parse(name)
    if not hub_input.revision and not hub_input.folder:
        from huggingface_hub import HfApi

        with _hub_errors_as_user_error(name):
            commit = HfApi().dataset_info(hub_input.repository).sha or ""
        hub_input = replace(hub_input, revision=commit)
    pinned = str(hub_input)
    return pinned, _stream(pinned).num_shards


def rows(name: str, shard: int) -> Iterator[Any]:
    """Yield the rows of one shard of a data set.

    Raises:
        UserError: the data set cannot be reached.
    """
    stream = _stream(name)
    with _hub_errors_as_user_error(name):
        yield from stream.shard(num_shards=stream.num_shards, index=shard)


def _stream(name: str) -> Any:
    import datasets

    hub_input = HubInput.parse(name)
    options: dict[str, Any] = {"split": hub_input.split, "streaming": True}
    datasets.disable_progress_bars()
    with _hub_errors_as_user_error(name):
        if hub_input.glob:
            repository = f"{hub_input.repository}@{hub_input.revision}"
            files = f"hf://datasets/{repository}/{hub_input.glob}"
            kind = "json"
            if hub_input.glob.endswith(".parquet"):
                kind = "parquet"
            return datasets.load_dataset(kind, data_files={hub_input.split: files}, **options)
        return datasets.load_dataset(
            hub_input.repository,
            hub_input.configuration or None,
            revision=hub_input.revision or None,
            **options,
        )


@contextmanager
def _hub_errors_as_user_error(name: str) -> Iterator[None]:
    """Turn what ``datasets`` raises about an unreachable source into a :class:`UserError`."""
    try:
        yield
    except Exception as error:  # the library lets its transports' own exceptions through
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: cannot be read from the Hub ({type(error).__name__}: {reason}); check the "
            f"name, configuration, split and network, or fetch the files and name them"
        ) from error
