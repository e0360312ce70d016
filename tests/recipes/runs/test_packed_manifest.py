"""Whether a stage can train on a packed folder, by its manifest alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.common.tokenizer_files import TokenizerIdentity
from recipes.registry.resolve import resolve_sft
from recipes.runs.packed_manifest import PackedManifest, check_packed, num_held_out

MANIFEST = PackedManifest(
    sequences=300,
    sequence_length=16384,
    conversations=600,
    tokens=4_000_000,
    trained_tokens=1_000_000,
    longest=16000,
    left_out={},
    special_tokens={},
    unread_keys={},
    sources={},
    passed_over={},
    tokenizer=TokenizerIdentity("0" * 64, 100352, 100257),
    template_sha256="1" * 64,
)


def test_a_folder_that_fits() -> None:
    check_packed(Path("packed"), MANIFEST, resolve_sft("sft", "8b"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"sequence_length": 16385}, "16,385 tokens, but sft reads 16,384; pack again with"),
        (
            {"tokenizer": TokenizerIdentity("0" * 64, 100353, 0)},
            "ids up to 100,352 but the model only 100,352 rows",
        ),
        ({"sequences": 256}, "256 sequences, of which 1 are held out, are fewer than a batch of"),
    ],
)
def test_a_folder_that_does_not(values, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        check_packed(Path("packed"), replace(MANIFEST, **values), resolve_sft("sft", "8b"))


def test_at_least_one_sequence_is_held_out() -> None:
    assert num_held_out(10, 0.001) == 1
    assert num_held_out(10_000, 0.001) == 10
