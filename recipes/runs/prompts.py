"""Prompts for reinforcement learning: a folder of JSON lines and its manifest.

``prompts.jsonl`` holds a :class:`Prompt` a line; ``manifest.json`` their number, where they come
from, and the SHA-256 of that file, by which a stage knows on a resume that nothing has changed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.files import atomic_write
from recipes.common.json_files import parse_record, read_record, write_record

PROMPTS = "prompts.jsonl"
MANIFEST = "manifest.json"

_REMEDY = "prepare the prompts again with `granite41 data prompts`"


@dataclass(frozen=True)
class Prompt:
    """What the policy answers, and how an answer is rewarded.

    Attributes:
        id: unique in a folder; GRPO's groups and the order of a pass go by it.
        domain: one of those of a stage's table, such as ``math``.
        messages: as chat templates take them; the last one is not the assistant's.
        reward: name of the reward function, as in ``recipes.alignment.rewards``.
        gold: what an answer is compared with; its keys are the reward function's.
        tools, documents: for the chat template.
        source: data set or generator.
    """

    id: str
    domain: str
    messages: list[dict[str, Any]]
    reward: str
    gold: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""


@dataclass(frozen=True)
class PromptSource:
    """Where prompts come from.

    Attributes:
        prompts: of this source in the folder.
        license: SPDX identifier, or what its publisher says; empty where it is not known.
        left_out: reason -> prompts of this source that are not in the folder.
    """

    prompts: int
    license: str
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptManifest:
    """The manifest of a folder of prompts.

    Attributes:
        prompts: how many.
        fingerprint: SHA-256 of ``prompts.jsonl``, in hex.
        domains: domain -> prompts.
        rewards: name of a reward function -> prompts.
        sources: name -> source.
        seed: of generators and of the order.
    """

    prompts: int
    fingerprint: str
    domains: dict[str, int]
    rewards: dict[str, int]
    sources: dict[str, PromptSource]
    seed: int

    def write(self, folder: Path) -> None:
        """Write it into ``folder``, whole or not at all."""
        write_record(folder / MANIFEST, self)


class PromptFolder:
    """A folder that ``granite41 data prompts`` wrote; its lines are in memory, parsed when used.

    Attributes:
        manifest: of the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Read the file and compare it with the manifest.

        Raises:
            UserError: a file is missing or damaged, or the prompts are not those of the manifest.
        """
        self.manifest = read_record(PromptManifest, folder / MANIFEST, _REMEDY)
        self._path = folder / PROMPTS
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be read ({error.strerror}); {_REMEDY}"
            ) from error
        self._lines = content.splitlines()
        found = hashlib.sha256(content).hexdigest()
        if found != self.manifest.fingerprint or len(self._lines) != self.manifest.prompts:
            raise UserError(
                f"{self._path}: holds {len(self._lines):,} lines of SHA-256 {found[:12]}, expected "
                f"{self.manifest.prompts:,} of {self.manifest.fingerprint[:12]} by {MANIFEST}; "
                f"{_REMEDY}"
            )
        if not self._lines:
            raise UserError(f"{self._path}: holds no prompt; {_REMEDY}")

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._lines)

    def __getitem__(self, index: int) -> Prompt:
        """Return a prompt by its number, from 0.

        Raises:
            UserError: its line holds no prompt.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"prompt {index} of {len(self)}")
        return parse_prompt(self._lines[index], f"{self._path}, line {index + 1}")

    def __iter__(self) -> Iterator[Prompt]:
        """Yield the prompts in their order."""
        return (self[index] for index in range(len(self)))


def stage_prompts(folder: Path, stage: str) -> Path:
    """Return the folder of a stage's prompts: that of its name within ``folder``, or itself."""
    own = folder / stage
    return own if own.is_dir() else folder


def parse_prompt(line: bytes, where: str) -> Prompt:
    """Return the prompt of a line.

    Args:
        where: the file and the line, for the sentence of an error.

    Raises:
        UserError: it holds no prompt.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not valid JSON ({error}); {_REMEDY}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: holds {type(value).__name__}, expected an object; {_REMEDY}")
    prompt = parse_record(Prompt, value, where, _REMEDY)
    if not prompt.messages:
        raise UserError(f"{where}: has no messages; {_REMEDY}")
    return prompt


def write_prompts(
    folder: Path,
    prompts: Iterable[Prompt],
    sources: dict[str, PromptSource],
    seed: int,
) -> PromptManifest:
    """Write prompts and their manifest into an existing folder.

    Args:
        prompts: no two with the same id.
        sources: name -> source, of all prompts.
        seed: of the generators and the order.
    """
    digest = hashlib.sha256()
    domains: Counter[str] = Counter()
    rewards: Counter[str] = Counter()
    ids: set[str] = set()
    with atomic_write(folder / PROMPTS) as temporary, temporary.open("wb") as file:
        for prompt in prompts:
            if prompt.id in ids:
                raise ValueError(f"two prompts have the id {prompt.id!r}")
            ids.add(prompt.id)
            domains[prompt.domain] += 1
            rewards[prompt.reward] += 1
            line = json.dumps(asdict(prompt)).encode() + b"\n"
            digest.update(line)
            file.write(line)
    manifest = PromptManifest(
        prompts=len(ids),
        fingerprint=digest.hexdigest(),
        domains=dict(domains),
        rewards=dict(rewards),
        sources=sources,
        seed=seed,
    )
    manifest.write(folder)
    return manifest
