"""Prepared shards through NeMo's data module: the mixture, the order, and which documents a stage
reads.
"""

import io
import json
import logging
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from data_prep import indexed, tokenizer
from recipes.common import tokenizer_files
from recipes.runs.data_folder import (
    DataComponent,
    DataManifest,
    DataShard,
    DataTokenizer,
    blend,
)

pytestmark = pytest.mark.slow

DOCUMENTS = 3000  # at most; a document is its number, repeated
SPLIT = "900,100,0"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A tokenizer whose id of a document's number is the number + 1."""
    folder = tmp_path_factory.mktemp("words")
    vocabulary = {
        tokenizer.END_OF_TEXT: 0,
        **{str(number): number + 1 for number in range(DOCUMENTS)},
    }
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokenizer.END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_data(folder: Path, words: Path, shards: dict[str, list[int]]) -> DataManifest:
    """Write component -> documents of each of its shards; return the data folder's manifest.

    Documents are numbered through all shards and have 19, 26 or 33 tokens.
    """
    folder.mkdir()
    loaded = tokenizer_files.load(words)
    components = {}
    number = 0
    for name, sizes in shards.items():
        written = []
        for index, documents in enumerate(sizes):
            texts = [
                " ".join([str(n)] * (18 + 7 * n % 21)) for n in range(number, number + documents)
            ]
            prefix = f"{name}-{index}"
            tokens = int(indexed.write(folder / prefix, texts, loaded).sum())
            written.append(DataShard(prefix, documents, tokens, tokens, prefix, prefix))
            number += documents
        components[name] = DataComponent(written, documents=0, tokens=0, bytes=0)
    assert number <= DOCUMENTS
    return DataManifest(components, DataTokenizer("tokenizer", DOCUMENTS + 1, "0"))


def documents_of(manifest: DataManifest) -> dict[str, range]:
    """Return prefix -> the documents of the shard."""
    documents = {}
    number = 0
    for prefix, (_, shard) in manifest.shards().items():
        documents[prefix] = range(number, number + shard.documents)
        number += shard.documents
    return documents


def component_of(manifest: DataManifest) -> dict[int, str]:
    """Return document -> component."""
    shards = manifest.shards()
    return {
        number: shards[prefix][0]
        for prefix, documents in documents_of(manifest).items()
        for number in documents
    }


def paths_of(folder: Path, manifest: DataManifest, mixture: dict[str, float]) -> list[str | float]:
    return [
        part
        for weight, prefix in blend(manifest, mixture)
        for part in (weight, str(folder / prefix))
    ]


def shards_of(folder: Path, manifest: DataManifest) -> dict[str, dict[str, Any]]:
    return {
        str(folder / prefix): {"component": name} for prefix, (name, _) in manifest.shards().items()
    }


def _samples(
    paths: list[str | float],
    shards: dict[str, dict[str, Any]],
    words: Path,
    cache: Path | None,
    sequence_length: int,
    batch_size: int,
    steps: int,
    seed: int = 1234,
) -> dict[str, Any]:
    """Set the data module up as a trainer does; return its tokens, what it read and logged."""
    import torch
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    from recipes.training.data import GraniteDataModule

    # fewer than the shards' files, as 1,024 is with more shards
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    # Megatron asks for the rank where it writes its indices
    torch.distributed.init_process_group("gloo")
    module = GraniteDataModule(
        paths=paths,
        seq_length=sequence_length,
        global_batch_size=batch_size,
        micro_batch_size=1,
        tokenizer=AutoTokenizer(str(words)),
        split=SPLIT,
        seed=seed,
        index_mapping_dir=str(cache) if cache else None,
        shards=shards,
    )
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    logger = logging.getLogger("recipes.training.data")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    module.build(steps, steps, 2, 0)
    parts = {
        "train": (module._train_ds, steps * batch_size),
        "validation": (module._validation_ds, 2 * batch_size),
    }
    return {
        "read": module.read,
        "repeats": module.repeats,
        "logged": logged.getvalue(),
        **{
            name: np.stack([dataset[index]["tokens"].numpy() for index in range(samples)])
            for name, (dataset, samples) in parts.items()
        },
    }


def documents(samples: np.ndarray) -> set[int]:
    return set((samples[samples > 0] - 1).tolist())


MIXTURE = {"common_crawl": 59.0, "code": 20.0, "math": 21.0}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, words) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("mixed") / "data"
    return folder, write_data(
        folder, words, {"code": [9] * 70, "common_crawl": [500, 300, 700], "math": [200, 300]}
    )


def test_the_mixture_is_the_recipes_from_the_first_batch_on(forked, words, mixed, tmp_path) -> None:
    folder, manifest = mixed
    paths, shards = paths_of(folder, manifest, MIXTURE), shards_of(folder, manifest)
    found = forked(_samples, paths, shards, words, tmp_path / "index", 4, 100, 100)
    names, train = component_of(manifest), found["train"]
    # a sample of four tokens has at least one of a document's
    of_sample = [names[int(ids[ids > 0][0]) - 1] for ids in train]
    assert len(of_sample) == 10_000
    for first in (100, 10_000):
        shares = Counter(of_sample[:first])
        for name, percent in MIXTURE.items():
            assert abs(100 * shares[name] / first - percent) < (2 if first == 100 else 0.05), (
                name,
                first,
            )
    # every shard has its part
    assert {shards[prefix]["component"] for prefix in found["read"]} == set(MIXTURE)
    read = set(documents(train))
    assert all(read.intersection(shard[:9]) for shard in documents_of(manifest).values())


def test_components_of_many_shards_do_not_take_turns(forked, words, tmp_path) -> None:
    """Megatron alone gives the first 60 samples to one component, one of each of its shards."""
    manifest = write_data(tmp_path / "data", words, {"code": [9] * 60, "math": [12] * 60})
    paths = paths_of(tmp_path / "data", manifest, {"code": 52, "math": 48})
    found = forked(
        _samples, paths, shards_of(tmp_path / "data", manifest), words, tmp_path / "index", 8, 60, 4
    )
    names = component_of(manifest)
    shares = Counter(names[int(ids[ids > 0][0]) - 1] for ids in found["train"][:60])
    assert abs(shares["code"] - 0.52 * 60) <= 1


def test_a_seed_gives_one_order(forked, words, mixed, tmp_path) -> None:
    folder, manifest = mixed
    arguments = paths_of(folder, manifest, MIXTURE), shards_of(folder, manifest), words
    one, again, cached, other = (
        forked(_samples, *arguments, cache, 64, 10, 30, seed)["train"]
        for cache, seed in (
            (tmp_path / "a", 1),
            (tmp_path / "b", 1),
            (tmp_path / "a", 1),
            (tmp_path / "a", 2),
        )
    )
    assert one.shape == (300, 64)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one, cached)
    assert (one != other).any(axis=1).mean() > 0.9


def test_light_shards_beside_a_heavy_one(forked, words, tmp_path) -> None:
    """Megatron alone ends here with an IndexError: its blend takes more of the heavy shard than it
    had reserved.
    """
    manifest = write_data(tmp_path / "data", words, {"code": [1500, *[10] * 60]})
    paths, shards = (
        paths_of(tmp_path / "data", manifest, {"code": 1}),
        shards_of(tmp_path / "data", manifest),
    )
    found = forked(_samples, paths, shards, words, tmp_path / "index", 64, 10, 10)
    assert np.mean([number < 1500 for number in documents(found["train"])]) > 0.6


def test_stages_read_on_until_the_data_ends(forked, words, tmp_path) -> None:
    folder = tmp_path / "data"
    manifest = write_data(folder, words, {"code": [300, 200], "math": [800]})
    paths, shards = (
        paths_of(folder, manifest, {"code": 50, "math": 50}),
        shards_of(folder, manifest),
    )
    held_out, seen, epochs = set(), set(), []
    # 3,072, 3,072 and 4,000 tokens of each component, then as much again; one index cache, as
    # nothing may rely on it
    for sequence_length, batch_size, steps in ((64, 4, 24), (64, 4, 24), (32, 10, 25)):
        found = forked(
            _samples, paths, shards, words, tmp_path / "index", sequence_length, batch_size, steps
        )
        train = documents(found["train"])
        assert len(train) > 100
        assert not train & seen
        # a fair part of the file's documents, not the next stretch of it: files have an order
        of_math = [number - 500 for number in train if number >= 500]
        assert min(of_math) < 150
        assert max(of_math) > 550
        assert (found["logged"], found["repeats"]) == ("", {})
        seen |= train
        held_out |= documents(found["validation"])
        shards = {prefix: shards[prefix] | read for prefix, read in found["read"].items()}
        epochs.append(max(read["epochs"] for read in found["read"].values()))
    assert epochs == sorted(epochs)
    assert epochs[-1] < 1
    again = forked(_samples, paths, shards, words, tmp_path / "index", 128, 2, 30)
    assert documents(again["train"]) & seen
    # not before all of code had its turn: 270 and 180 of its documents are for training, and
    # Megatron leaves a few of each window unread, as it asks for a little more than it takes
    assert len({*range(270), *range(300, 480)} - documents(again["train"]) - seen) < 20
    assert again["repeats"].keys() == {"code"}
    epochs_of_code = again["repeats"]["code"]
    assert 1 < epochs_of_code < 2
    assert again["logged"] == (
        f"code: {epochs_of_code:.2f} epochs after this stage; documents of earlier stages are read "
        "again\n"
    )
    held_out |= documents(again["validation"])
    assert held_out
    assert not held_out & (seen | documents(again["train"]))


def test_one_stage_that_reads_everything_more_than_once(forked, words, tmp_path) -> None:
    manifest = write_data(tmp_path / "data", words, {"code": [40]})
    shards = shards_of(tmp_path / "data", manifest)
    found = forked(
        _samples, [str(tmp_path / "data/code-0")], shards, words, tmp_path / "index", 32, 10, 10
    )
    (read,) = found["read"].values()
    # 36 documents for training, each with its end
    tokens = sum(19 + 7 * number % 21 for number in range(36))
    assert read["epochs"] == pytest.approx(3201 / tokens, abs=40 / tokens)
    assert documents(found["train"]) == set(range(36))
    assert (
        found["logged"]
        == f"code: {read['epochs']:.2f} epochs after this stage; documents are read again\n"
    )
