import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.conversations.curate.text import is_cut_off, normalize

DECOMPOSED = "e\u0301"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\r\nb\rc", "a\nb\nc"),
        (f"caf{DECOMPOSED}", "café"),
        ("a\x00b\ufeff\x1b[31mred\x1b[0m", "abred"),
        ("👩‍💻 می‌خواهم", "👩‍💻 می‌خواهم"),
        # code stays, but for CR LF
        (f"{DECOMPOSED} `{DECOMPOSED}\x0c`", f"é `{DECOMPOSED}\x0c`"),
        (f"{DECOMPOSED}\r\n```\r\n{DECOMPOSED}\x0c\r\n```\r\n{DECOMPOSED}", None),
        (f"~~~py\n{DECOMPOSED}\n```\n~~~\n{DECOMPOSED}", f"~~~py\n{DECOMPOSED}\n```\n~~~\né"),
        (f"```py\n{DECOMPOSED}", f"```py\n{DECOMPOSED}"),
    ],
)
def test_prose_is_normalized_and_code_is_not(text: str, expected: str | None) -> None:
    if expected is None:
        expected = f"é\n```\n{DECOMPOSED}\x0c\n```\né"
    assert normalize(text) == expected


@given(st.text("b`~\n\r\x00\u0301 "))
def test_visible_characters_stay(text: str) -> None:
    def visible(text: str) -> str:
        return "".join(character for character in text if character in "b`~")

    assert visible(normalize(text)) == visible(text)


def test_a_long_row_of_backticks_takes_no_longer_than_other_text() -> None:
    # its square would take minutes
    for text in ("`" * 200_000 + "é", "` " * 100_000 + "é", "``` " * 50_000 + "é"):
        assert normalize(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no code", False),
        ("```py\nx = 1\n```", False),
        ("```py\nx = 1\n```\nDone.", False),
        ("```py\nx = 1", True),
        ("Look:\n  ```py", True),
        ("```\na\n```\nand\n~~~\nb", True),
        ("Use ```x``` here", False),
        ("```a``` b\nc", False),
        ("````md\n```py\nx\n```\n````", False),
        # a block within a block of as many marks
        ("```md\n```py\nx\n```\n```", False),
    ],
)
def test_a_reply_that_ends_within_code_is_cut_off(text: str, expected: bool) -> None:
    assert is_cut_off(text) is expected
