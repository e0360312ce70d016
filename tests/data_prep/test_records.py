"""Records: numbers as they came, byte order marks dropped, and the text in fields."""

import math
from datetime import date
from typing import Any

import pytest

from data_prep.records import BadRow, from_json, get_text, to_json

MARK = b"\xef\xbb\xbf"


def read(line: bytes, exact: bool) -> Any:
    [value] = from_json([line], exact)
    return value


@pytest.mark.parametrize(
    "line",
    [
        b'{"text":"a","id":18446744073709551617}',
        b'{"text":"a","id":-9223372036854775809}',
        b'{"text":"a","score":NaN}',
        b'{"text":"a","meta":{"scores":[1.5,Infinity,-Infinity]}}',
        b'{"text":"a","ids":[{"id":123456789012345678901234567890}],"n":0.1,"z":null}',
        b'{"text":"a","id":18446744073709551615,"low":-9223372036854775808}',
        '{"text":"größer 🙂","score":NaN}'.encode(),
    ],
)
def test_a_record_is_written_as_it_was_read(line: bytes) -> None:
    assert to_json(read(line, exact=True)) == line + b"\n"


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999", b"18446744073709551617"])
def test_a_number_that_nobody_reads_is_no_reason_to_refuse(number: bytes) -> None:
    row = read(b'{"text": "good", "score": ' + number + b"}", exact=False)
    assert get_text(row, "text") == "good"


@pytest.mark.parametrize("number", [b"1e999", b"1" * 5000])
def test_a_number_that_cannot_be_kept_is_refused_where_it_is_kept(number: bytes) -> None:
    row = read(b'{"text": "a", "id": ' + number + b"}", exact=True)
    assert isinstance(row, BadRow)
    assert row.reason.startswith("cannot be read exactly (")


def test_dates_next_to_unusual_numbers_are_written_as_ever() -> None:
    record = {"text": "a", "day": date(2025, 1, 31)}
    assert to_json(record) == b'{"text":"a","day":"2025-01-31"}\n'
    assert to_json(record | {"n": math.nan}) == b'{"text":"a","day":"2025-01-31","n":NaN}\n'
    assert to_json({"map": [("a", math.inf)]}) == b'{"map":[["a",Infinity]]}\n'
    for number in (math.nan, 2**64, 1):
        with pytest.raises(TypeError):
            to_json({"bytes": b"a", "n": number})


def test_a_byte_order_mark_is_no_part_of_a_record() -> None:
    assert read(MARK + b'{"text": "a"}\n', exact=False) == {"text": "a"}
    assert read(MARK + b"\n", exact=False) is None
    # within a text it is a character like others
    assert read(b'{"text": "' + MARK + b'"}', exact=False) == {"text": "\ufeff"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": NaN, "other": "\\ud800"}', "is not valid UTF-8"),
        (b'{"text": NaN, "other": "\xff"}', "is not valid UTF-8"),
        (b'{"text": NaN, "other": }', "is not JSON (unexpected character"),
        (b"[" * 100_000, "cannot be read exactly (maximum recursion depth"),
        (MARK + b'{"text": ', "is not JSON ("),
    ],
)
def test_what_only_pythons_reader_sees(line: bytes, reason: str) -> None:
    for exact in (False, True):
        row = read(line, exact)
        assert isinstance(row, BadRow)
        assert row.reason.startswith(reason), row


def test_what_is_too_deep_to_be_written_is_no_record() -> None:
    def deep(levels: int) -> bytes:
        return b'{"a": ' + b"[" * levels + b"]" * levels + b"}"

    assert to_json(read(deep(250), exact=True)) == deep(250).replace(b" ", b"") + b"\n"
    for levels in (260, 1010, 1020):
        row = read(deep(levels), exact=True)
        assert isinstance(row, BadRow)
        assert row.reason.startswith("holds values more than 254 deep"), row
        # where only the text is needed
        assert isinstance(read(deep(levels), exact=False), dict)


def test_a_field_that_is_called_like_a_list_goes_first() -> None:
    row = {"turns": [{"content": "as it was"}], "title": "T"}
    assert get_text(row, "turns[]") == "as it was"
    assert get_text(row, "title+turns[]") == "T\n\nas it was"
    # what `granite41 data filter` writes
    row["turns[]"] = "filtered"
    assert get_text(row, "turns[]") == "filtered"
    assert get_text(row, "title+turns[]") == "T\n\nfiltered"
