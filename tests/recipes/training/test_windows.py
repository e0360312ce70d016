import numpy as np
import pytest

from recipes.training.windows import epochs_with_repeats, window

pytestmark = pytest.mark.slow


def by_hand(lengths: np.ndarray, start: int, tokens: int) -> tuple[list[int], int, float]:
    """Walk around document by document until the tokens are there."""
    taken, position, held = [], start, 0
    while held < tokens:
        taken.append(position)
        held += int(lengths[position])
        position = (position + 1) % len(lengths)
    documents = taken if tokens <= lengths.sum() else sorted(set(range(len(lengths))))
    return documents, position, held / int(lengths.sum())


def test_window_is_the_walk_around_the_documents() -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        lengths = random.integers(1, 20, random.integers(1, 12)).astype(np.int32)
        start, tokens = (
            int(random.integers(len(lengths))),
            int(random.integers(1, 3 * lengths.sum())),
        )
        found = window(lengths, start, tokens)
        documents, next_document, epochs = by_hand(lengths, start, tokens)
        assert sorted(found.documents) == sorted(documents), (lengths, start, tokens)
        assert found.documents[0] == start
        assert found.next_document == next_document
        assert found.epochs == pytest.approx(epochs, abs=1e-12)


def test_consecutive_windows_are_disjoint_until_all_is_read() -> None:
    lengths = np.full(10, 100, np.int32)
    first = window(lengths, 0, 301)
    second = window(lengths, first.next_document, 500)
    third = window(lengths, second.next_document, 200)
    assert [list(each.documents) for each in (first, second, third)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7, 8],
        [9, 0],
    ]
    assert [each.next_document for each in (first, second, third)] == [4, 9, 1]
    assert [each.epochs for each in (first, second, third)] == [0.4, 0.5, 0.2]


def test_the_whole_part_exactly_and_one_token_more() -> None:
    lengths = np.array([3, 4, 5], np.int32)
    whole = window(lengths, 0, 12)
    assert (list(whole.documents), whole.next_document, whole.epochs) == ([0, 1, 2], 0, 1.0)
    more = window(lengths, 1, 13)
    assert (list(more.documents), more.next_document, more.epochs) == (
        [1, 2, 0],
        2,
        pytest.approx(16 / 12),
    )


def test_tokens_beyond_32_bits() -> None:
    lengths = np.full(5, 2**31 - 1, np.int32)
    found = window(lengths, 4, 2**32)
    assert (list(found.documents), found.next_document) == ([4, 0, 1], 2)


def test_a_start_beyond_a_part_that_became_smaller() -> None:
    assert list(window(np.array([5, 5], np.int32), 3, 5).documents) == [1]


def test_only_components_read_again_are_told() -> None:
    before = {
        "a": {"component": "code", "epochs": 0.5},
        "b": {"component": "code", "epochs": 0.5},
        "c": {"component": "math", "epochs": 0.9},
        "d": {"component": "web", "epochs": 1.5},
    }
    after = {
        "a": {"epochs": 1.25},
        "b": {"epochs": 0.9},
        "c": {"epochs": 1.0},
        "d": {"epochs": 1.6},
    }
    assert epochs_with_repeats(before, after) == {"code": 1.25, "web": 1.6}
