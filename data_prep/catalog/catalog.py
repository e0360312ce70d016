"""The data catalog: what IBM disclosed (``disclosed.json``, verbatim) and how to load it (``loading.yaml``, ours)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from recipes.common.errors import UserError, nearest
from recipes.spec.origin import Sourced, assumed

BYTES_PER_TOKEN = assumed(4.0, "common for text under byte-level BPE of about 100K entries")


@dataclass(frozen=True)
class Disclosed:
    """One source's fields in IBM's disclosures, verbatim; ``date_obtained`` is missing for some."""

    name: str
    url: str
    description: str
    size_MB: float
    languages: str
    type: str
    source: str
    data_provenance: str
    user_data: str
    synthetic: str
    seed_data: str
    date_obtained: str | None = None


@dataclass(frozen=True)
class Loading:
    """How the library ``datasets`` reads a source; the fields are explained at the head of ``loading.yaml``.

    Attributes:
        configurations: each is read in turn; none stands for the default one.
        format, files: ``load_dataset(format, data_files="hf://datasets/DATASET/FILES")`` for each glob, or None and
            none for ``load_dataset(dataset, configuration)``.
        text, fields, messages: exactly one is given; ``a[].b`` in ``fields`` is field ``b`` of each item of list ``a``.
        confirmed: ``dataset card``, ``repository page``, ``public code`` or ``not checked``.
    """

    dataset: str
    configurations: tuple[str, ...]
    split: str
    format: str | None
    files: tuple[str, ...]
    text: str | None
    fields: tuple[str, ...]
    messages: str | None
    confirmed: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """What ``granite41 data tokenize --input`` takes to read the whole source."""
        if self.files:
            return tuple(f"hf:{self.dataset}/{glob}" for glob in self.files)
        splits = self.split.split("+")
        return tuple(
            f"hf:{self.dataset}:{name}:{split}"
            for name in self.configurations or ("",)
            for split in splits
        )

    @property
    def text_field(self) -> str:
        """What its ``--text-field`` takes to read the source's records."""
        return self.text or "+".join(self.fields) or f"{self.messages}[]"

    def __str__(self) -> str:
        parts = ", ".join(self.files or self.configurations)
        field = self.text or self.messages or " + ".join(self.fields)
        return f"{self.dataset}{f' ({parts})' if parts else ''}, {self.split}: {field}; {self.confirmed}"


@dataclass(frozen=True)
class Source:
    """One source of the catalog.

    Attributes:
        disclosed: what IBM disclosed, or None for a source of this project that is not in the disclosure.
        stages: ``base.pre_training``, ``base.post_training``, ``instruct.pre_training`` and ``instruct.post_training``
            as far as they list the source, each with its category there.
        public: whether anyone can get it.
        licence: as the source's page states it; None is unknown.
        loading: how to load it, or None and then ``reason`` says why not.
        tokens: how many there are, or None where nothing is known.
    """

    id: str
    name: str
    disclosed: Disclosed | None
    stages: Mapping[str, str]
    public: bool
    licence: str | None
    loading: Loading | None
    reason: str | None
    note: str | None
    tokens: Sourced[int] | None

    @property
    def category(self) -> str:
        """IBM's category in the first disclosure that lists the source; empty for a source that is not IBM's."""
        return next(iter(self.stages.values()), "")

    @property
    def seed(self) -> bool:
        """Whether IBM used the source to seed synthetic data instead of training on it directly."""
        return self.disclosed is not None and self.disclosed.seed_data == "yes"

    @property
    def languages(self) -> tuple[str, ...]:
        """The language codes that IBM disclosed."""
        listed = self.disclosed.languages if self.disclosed else ""
        return tuple(code.strip() for code in listed.split(",") if code.strip())


@cache
def load_catalog() -> Mapping[str, Source]:
    """Return every source by id: IBM's in the order of the disclosure, then the few that are not IBM's."""
    import yaml

    folder = resources.files(__package__)
    disclosed = json.loads((folder / "disclosed.json").read_text(encoding="utf-8"))["sources"]
    ours = yaml.safe_load((folder / "loading.yaml").read_text(encoding="utf-8"))
    catalog = {}
    for entry in disclosed:
        source = Disclosed(**entry["disclosed"])
        # without an entry of ours the disclosure itself says why it is not public
        addition = ours["sources"].get(
            entry["id"], {"public": False, "reason": source.data_provenance}
        )
        catalog[entry["id"]] = _source(entry["id"], source, entry["stages"], addition)
    for name, addition in ours["not_disclosed"].items():
        catalog[name] = _source(name, None, {}, addition)
    return catalog


def get_loading(name: str) -> tuple[Loading, str | None]:
    """Return how to load the source ``name`` of the catalog, and its licence as far as it is known.

    Raises:
        UserError: an unknown id, or a source that ``datasets`` cannot load.
    """
    catalog = load_catalog()
    if name not in catalog:
        raise UserError(
            f"{name}: no such source{nearest(name, catalog)}; `granite41 data sources` lists them"
        )
    source = catalog[name]
    if source.loading is None:
        raise UserError(f"{name}: `datasets` cannot load it: {source.reason}")
    return source.loading, source.licence


def _source(
    name: str, disclosed: Disclosed | None, stages: Mapping[str, str], addition: dict[str, Any]
) -> Source:
    return Source(
        id=name,
        name=disclosed.name if disclosed else addition["name"],
        disclosed=disclosed,
        stages=stages,
        public=addition["public"],
        licence=addition.get("licence"),
        loading=_loading(addition["load"]) if "load" in addition else None,
        reason=addition.get("reason"),
        note=addition.get("note"),
        tokens=_tokens(disclosed, addition.get("tokens")),
    )


def _loading(load: dict[str, Any]) -> Loading:
    configuration = load.get("configuration", [])
    return Loading(
        dataset=load["dataset"],
        configurations=(configuration,) if isinstance(configuration, str) else tuple(configuration),
        split=load.get("split", "train"),
        format=load.get("format"),
        files=tuple(load.get("files", ())),
        text=load.get("text"),
        fields=tuple(load.get("fields", ())),
        messages=load.get("messages"),
        confirmed=load["confirmed"],
    )


def _tokens(disclosed: Disclosed | None, known: dict[str, Any] | None) -> Sourced[int] | None:
    if known and "quote" in known:
        return Sourced(known["value"], "published", f'IBM\'s disclosure: "{known["quote"]}"')
    if known and "published" in known:
        return Sourced(known["value"], "published", known["published"])
    if known and "assumed" in known:
        return assumed(known["value"], known["assumed"])
    if known:
        return _from_bytes(known["bytes"], known["of"])
    return _from_bytes(disclosed.size_MB * 1e6, "IBM's disclosed size") if disclosed else None


def _from_bytes(size: float, of: str) -> Sourced[int]:
    return assumed(
        round(size / BYTES_PER_TOKEN.value), f"{of} at {BYTES_PER_TOKEN.value:g} bytes per token"
    )
