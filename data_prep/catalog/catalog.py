"""The data catalog: IBM's disclosure (``disclosed.json``) and how to load it (``loading.yaml``)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from recipes.common.errors import UserError, nearest
from recipes.common.json_files import parse_record
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
    """How the library ``datasets`` reads a source; ``loading.yaml``'s head explains the fields.

    Attributes:
        configurations: each is read in turn; none is the default one.
        format, files: ``load_dataset(format, data_files="hf://datasets/DATASET/FILES")`` for each
            glob, or None and none for ``load_dataset(dataset, configuration)``.
        text, fields, messages: one of the three is set; ``a[].b`` in ``fields`` is field ``b`` of
            each item of list ``a``.
        confirmed: ``dataset card``, ``repository page``, ``public code`` or ``not checked``.
    """

    dataset: str
    confirmed: str
    configurations: tuple[str, ...] = ()
    split: str = "train"
    format: str | None = None
    files: tuple[str, ...] = ()
    text: str | None = None
    fields: tuple[str, ...] = ()
    messages: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What ``granite41 data tokenize --input`` takes to read the whole source."""
        if self.files:
            return tuple(f"hf:{self.dataset}/{glob}" for glob in self.files)
        # `a+b` reads one split after the other
        inputs = []
        for configuration in self.configurations or ("",):
            for split in self.split.split("+"):
                inputs.append(f"hf:{self.dataset}:{configuration}:{split}")
        return tuple(inputs)

    @property
    def text_field(self) -> str:
        """What its ``--text-field`` takes to read the source's records."""
        return self.text or "+".join(self.fields) or f"{self.messages}[]"

    def __str__(self) -> str:
        name = self.dataset
        parts = ", ".join(self.files or self.configurations)
        if parts:
            name += f" ({parts})"
        field = self.text or self.messages or " + ".join(self.fields)
        return f"{name}, {self.split}: {field}; {self.confirmed}"


@dataclass(frozen=True)
class CatalogSource:
    """One source of the catalog.

    Attributes:
        id: its key in the catalog and in mixtures.
        name: as IBM names it.
        disclosed: what IBM disclosed, or None for a source of this project.
        stages: ``base.pre_training``, ``base.post_training``, ``instruct.pre_training`` and
            ``instruct.post_training`` where they list the source -> its category there.
        public: whether anyone can get it.
        license: as the source's page states it; None is unknown.
        loading: how to load it, or None and then ``reason`` says why not.
        reason: why ``datasets`` cannot load it, or why it is not public.
        note: what a user should know.
        tokens: how many there are, or None where nothing is known.
    """

    id: str
    name: str
    disclosed: Disclosed | None
    stages: Mapping[str, str]
    public: bool
    license: str | None
    loading: Loading | None
    reason: str | None
    note: str | None
    tokens: Sourced[int] | None

    @property
    def category(self) -> str:
        """IBM's category in the first disclosure that lists it; empty for a source not IBM's."""
        return next(iter(self.stages.values()), "")

    @property
    def seed(self) -> bool:
        """Whether IBM seeded synthetic data with the source instead of training on it directly."""
        return self.disclosed is not None and self.disclosed.seed_data == "yes"

    @property
    def languages(self) -> tuple[str, ...]:
        """The language codes that IBM disclosed."""
        if self.disclosed is None:
            return ()
        codes = [code.strip() for code in self.disclosed.languages.split(",")]
        return tuple(filter(None, codes))


@cache
def load_catalog() -> Mapping[str, CatalogSource]:
    """Return every source by id: IBM's in the order of the disclosure, then this project's few."""
    import yaml

    folder = resources.files(__package__)
    disclosure = json.loads((folder / "disclosed.json").read_text(encoding="utf-8"))
    additions = yaml.safe_load((folder / "loading.yaml").read_text(encoding="utf-8"))

    catalog = {}
    for entry in disclosure["sources"]:
        source_id = entry["id"]
        disclosed = Disclosed(**entry["disclosed"])
        # without an addition the disclosure itself says why the source is not public
        not_public = {"public": False, "reason": disclosed.data_provenance}
        addition = additions["sources"].get(source_id, not_public)
        catalog[source_id] = _build_source(source_id, disclosed, entry["stages"], addition)
    # public sources that this project uses for those that are not
    for source_id, addition in additions["not_disclosed"].items():
        catalog[source_id] = _build_source(source_id, None, {}, addition)
    return catalog


def get_loading(source_id: str) -> tuple[Loading, str | None]:
    """Return how to load a source of the catalog, and its license as far as it is known.

    Raises:
        UserError: an unknown id, or a source that ``datasets`` cannot load.
    """
    catalog = load_catalog()
    if source_id not in catalog:
        raise UserError(
            f"{source_id}: no such source{nearest(source_id, catalog)}; "
            f"`granite41 data sources` lists them"
        )
    source = catalog[source_id]
    if source.loading is None:
        raise UserError(f"{source_id}: `datasets` cannot load it: {source.reason}")
    return source.loading, source.license


def _build_source(
    source_id: str,
    disclosed: Disclosed | None,
    stages: Mapping[str, str],
    addition: dict[str, Any],
) -> CatalogSource:
    load = addition.get("load")
    loading = None
    if load:
        where = f"loading.yaml: {source_id}"
        loading = parse_record(Loading, load, where, "correct it")
    return CatalogSource(
        id=source_id,
        name=disclosed.name if disclosed else addition["name"],
        disclosed=disclosed,
        stages=stages,
        public=addition["public"],
        license=addition.get("license"),
        loading=loading,
        reason=addition.get("reason"),
        note=addition.get("note"),
        tokens=_count_tokens(disclosed, addition.get("tokens")),
    )


def _count_tokens(disclosed: Disclosed | None, count: dict[str, Any] | None) -> Sourced[int] | None:
    """The source's tokens: as ``loading.yaml`` states them, else by IBM's disclosed size."""
    if count is None:
        if disclosed is None:
            return None
        return _tokens_of_bytes(disclosed.size_MB * 1e6, "IBM's disclosed size")
    # the forms that the head of loading.yaml explains
    if "quote" in count:
        return Sourced(count["value"], "published", f'IBM\'s disclosure: "{count["quote"]}"')
    if "published" in count:
        return Sourced(count["value"], "published", count["published"])
    if "assumed" in count:
        return assumed(count["value"], count["assumed"])
    return _tokens_of_bytes(count["bytes"], count["description"])


def _tokens_of_bytes(size: float, description: str) -> Sourced[int]:
    tokens = round(size / BYTES_PER_TOKEN.value)
    return assumed(tokens, f"{description} at {BYTES_PER_TOKEN.value:g} bytes per token")
