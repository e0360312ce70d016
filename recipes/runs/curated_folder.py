"""The manifest of a folder of curated conversations: counts of what was kept and why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.json_files import read_record, write_record
from recipes.registry.stages import STAGES

# of a run
CURATED = "curated"
MANIFEST = "manifest.json"
# folder of the judge's answers
ANSWERS = ".answers"
KEPT = "kept"
DROPPED = "dropped"
UNDECIDED = "undecided"
OUTCOMES = (KEPT, DROPPED, UNDECIDED)
MOST_EXAMPLES = 3
BEST_SCORE = 10
# derived: 8 characters for each token of SFT's sequences; hardly any text has as many, so what is
# longer would be left out when it is packed
MOST_CHARACTERS = 8 * STAGES["sft"].sequence_length.value
_REMEDY = "curate the conversations again with `granite41 data curate`"


@dataclass(frozen=True)
class Example:
    """A conversation that was not kept.

    Attributes:
        input, record: where it is from.
        why: reason.
        prompt, reply: beginnings of the first user's and the last assistant's message.
    """

    input: str
    record: int
    why: str
    prompt: str
    reply: str


@dataclass
class CurationCounts:
    """Counts of conversations.

    Attributes:
        read: all of them; the sum of the next three.
        kept, dropped, undecided: by what became of them.
        dropped_by: step -> those that it dropped.
        changed_by: step -> those that it changed.
        categories: category -> outcome -> conversations.
        buckets: bucket of the judge -> conversations.
        faults: fault that the judge found -> conversations.
        dimensions: dimension of the judge -> outcome -> conversations with a score of 1, 2 ... 10.
        examples: step -> the first few that it did not keep.
    """

    read: int = 0
    kept: int = 0
    dropped: int = 0
    undecided: int = 0
    dropped_by: dict[str, int] = field(default_factory=dict)
    changed_by: dict[str, int] = field(default_factory=dict)
    categories: dict[str, dict[str, int]] = field(default_factory=dict)
    buckets: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    dimensions: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every conversation that was read has an outcome."""
        return self.read == self.kept + self.dropped + self.undecided

    def add_outcome(self, outcome: str, category: str) -> None:
        """Count what became of a conversation."""
        self.kept += outcome == KEPT
        self.dropped += outcome == DROPPED
        self.undecided += outcome == UNDECIDED
        by_outcome = self.categories.setdefault(category, dict.fromkeys(OUTCOMES, 0))
        by_outcome[outcome] += 1

    def count_change(self, step: str) -> None:
        """Count a conversation that a step changed."""
        self.changed_by[step] = self.changed_by.get(step, 0) + 1

    def count_drop(self, step: str, category: str) -> None:
        """Count a conversation that a step dropped."""
        self.dropped_by[step] = self.dropped_by.get(step, 0) + 1
        self.add_outcome(DROPPED, category)

    def count_verdict(self, bucket: str, faults: Sequence[str]) -> None:
        """Count what the judge says of a conversation."""
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        for name in faults:
            self.faults[name] = self.faults.get(name, 0) + 1

    def count_scores(self, scores: Mapping[str, int], outcome: str) -> None:
        """Count the scores of a conversation, each 1 to 10."""
        for name, score in scores.items():
            by_outcome = self.dimensions.setdefault(name, {})
            histogram = by_outcome.setdefault(outcome, [0] * BEST_SCORE)
            histogram[score - 1] += 1

    def add_example(self, step: str, example: Example) -> None:
        """Keep an example of what a step did not keep, if it is one of the first."""
        examples = self.examples.setdefault(step, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(example)

    def add(self, more: "CurationCounts") -> None:
        """Add the counts of other conversations, which come after these."""
        self.read += more.read
        self.kept += more.kept
        self.dropped += more.dropped
        self.undecided += more.undecided
        for name in ("dropped_by", "changed_by", "categories", "buckets", "faults", "dimensions"):
            counts = getattr(self, name)
            _add(counts, getattr(more, name))
        for step, examples in more.examples.items():
            for example in examples:
                self.add_example(step, example)


def _add(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Add numbers, lists of numbers and dicts of them by key."""
    for key, value in more.items():
        if isinstance(value, dict):
            _add(into.setdefault(key, {}), value)
        elif isinstance(value, list):
            before = into.get(key, [0] * len(value))
            into[key] = [a + b for a, b in zip(before, value, strict=True)]
        else:
            into[key] = into.get(key, 0) + value


@dataclass
class CurationManifest(CurationCounts):
    """The contents of the folder's manifest.json.

    Attributes:
        steps: names, in the order in which they see a conversation.
        settings: of the rules, and of the judge where there is one.
        passed_over: reason -> files of the inputs that were not read.
    """

    steps: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the manifest, whole or not at all."""
        write_record(folder / MANIFEST, self)

    @classmethod
    def read_from(cls, folder: Path) -> "CurationManifest":
        """Return the manifest of a folder.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_record(cls, folder / MANIFEST, _REMEDY)

    def rows(self) -> list[tuple[str, int, int, int]]:
        """Return step, conversations that it changed and dropped, and those left after it."""
        left = self.read
        rows = []
        for step in self.steps:
            dropped = self.dropped_by.get(step, 0)
            left -= dropped
            rows.append((step, self.changed_by.get(step, 0), dropped, left))
        return rows
