"""Samples of RULER's tasks, read and measured by an independent count."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from evaluation.ruler import corpora
from evaluation.ruler.generation import read_metadata, samples_file
from evaluation.ruler.settings import TASKS

LENGTHS = (256, 512, 1024, 4096)
LONG = 32768
ESSAYS = corpora.load(None).essays


def read_samples(output: Path, task: str, length: int) -> list[dict]:
    return [
        json.loads(line) for line in samples_file(output, task, length).read_text().splitlines()
    ]


def check_lengths(output: Path, folder: Path, length: int) -> None:
    """No prompt is too long, none wastes more than 5 %, as the reference library counts it."""
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for task in TASKS:
        found = read_samples(output, task, length)
        metadata = read_metadata(output, task, length)
        fills = []
        for index, sample in enumerate(found):
            tokens = len(reference.encode(sample["input"], add_special_tokens=True).ids)
            assert (sample["task"], sample["length"], sample["index"]) == (task, length, index)
            assert sample["tokens"] == tokens
            fills.append((tokens + sample["budget"]) / length)
            assert 0.95 <= fills[-1] <= 1, (task, index)
            assert sample["input"].endswith(sample["answer_prefix"])
            assert sample["settings"] == metadata.settings["name"]
            # the answer has room
            answer = " ".join(
                sample["outputs"][:1] if task.startswith("qa_") else sample["outputs"]
            )
            assert (
                len(reference.encode(answer).ids) <= sample["budget"] == metadata.settings["budget"]
            ), task
        assert metadata.count == len(found)
        assert metadata.fill_min == min(fills)
        assert metadata.fill_mean == pytest.approx(np.mean(fills))
