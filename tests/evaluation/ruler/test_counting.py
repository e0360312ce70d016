"""Counting by the reference library where the fast one differs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evaluation.ruler import counting
from evaluation.ruler.generation import generate, samples_file
from recipes.common.encoder import EncoderMismatch

pytestmark = pytest.mark.slow


def test_reference_counts_where_the_fast_encoder_differs(
    made: Path, good: Path, tmp_path: Path, monkeypatch
) -> None:
    calls: list[bool] = []

    class Wrong(counting.Encoder):
        def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            calls.append(self.reference_only)
            if not self.reference_only:
                raise EncoderMismatch(1)
            return super().encode(texts)

    monkeypatch.setattr(counting, "Encoder", Wrong)
    generate(good, [256], 3, tmp_path, tasks=["fwe"], workers=1)
    assert calls[:2] == [False, True]
    assert all(calls[1:])
    assert (
        samples_file(tmp_path, "fwe", 256).read_bytes()
        == samples_file(made, "fwe", 256).read_bytes()
    )
