import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.common.errors import UserError
from recipes.runs.unigram_entropy import blend_entropy
from recipes.training import run


def test_uniform_component_has_the_logarithm_of_its_size() -> None:
    assert blend_entropy({"a": [5, 5, 5, 5]}, {"a": 1.0}) == pytest.approx(math.log(4))


def test_unseen_tokens_do_not_count_and_a_certain_token_has_none() -> None:
    assert blend_entropy({"a": [0, 7, 0]}, {"a": 3.0}) == 0.0


def test_blend_weighs_components_by_share_not_by_size() -> None:
    # p = 0.75 * (1, 0) + 0.25 * (0.5, 0.5) = (0.875, 0.125)
    expected = -(0.875 * math.log(0.875) + 0.125 * math.log(0.125))
    counts = {"a": [1000, 0], "b": [1, 1], "unused": [0, 9]}
    assert blend_entropy(counts, {"a": 75, "b": 25}) == pytest.approx(expected)
    assert blend_entropy(counts, {"a": 3, "b": 1}) == pytest.approx(expected)


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": 2.0, "b": -1.0}])
def test_weights_must_be_a_blend(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        blend_entropy({"a": [1], "b": [1]}, weights)


def test_component_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' has no tokens"):
        blend_entropy({"a": [0, 0]}, {"a": 1.0})


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"a": null}', '{"a": {}}', '{"a": ["x"]}', '{"a": [0]}', '{"a": [[1], 2]}'],
)
def test_a_damaged_file_of_counts_gives_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "unigram_counts.json").write_text(content)
    monkeypatch.setattr(run, "component_weights", lambda *_: {"a": 1.0})
    with pytest.raises(UserError, match=r"unigram_counts\.json: .*; prepare the data again$"):
        run.unigram_entropy(tmp_path, None, SimpleNamespace(mixture_percent={}))
