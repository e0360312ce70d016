"""Records: a line of JSON as a value and back, and the text in a record's fields."""

import json
import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

BYTE_ORDER_MARK = "\ufeff"
NOT_UTF8 = "is not valid UTF-8; convert or repair it"
_MARK = BYTE_ORDER_MARK.encode()
# orjson reads integers beyond 64 bits as floats of at least this size
_LEAST_INEXACT = 2.0**63
# orjson writes no deeper ones
_DEEPEST = 254


@dataclass(frozen=True)
class BadRow:
    """A record that is no document, and why: half a sentence."""

    reason: str


def from_json(lines: Iterable[bytes], exact: bool) -> Iterator[Any]:
    """Yield the value of each line: None if it is blank, a :class:`BadRow` if it holds no JSON.

    NaN and infinities, which Python writes, are read too. A byte order mark before the value is
    dropped.

    Args:
        exact: read integers beyond 64 bits as they are, not as the nearest float.
    """
    for line in lines:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            # looked at now only, which costs good lines nothing
            value = None
            line = line.removeprefix(_MARK)
            if line.strip():
                value = _from_python_json(line, str(error), exact)
        if exact:
            value = _exactly(line, value)
        yield value


def _exactly(line: bytes, value: Any) -> Any:
    """Return a line's value with its integers as they are; a :class:`BadRow` if it is too deep."""
    try:
        if not _has_inexact([value]):
            return value
    except RecursionError:
        return BadRow(f"holds values more than {_DEEPEST} deep in each other; repair it")
    return _from_python_json(line.removeprefix(_MARK), "", exact=True)


def _from_python_json(line: bytes, orjson_error: str, exact: bool) -> Any:
    """Return the value of a line as Python's own reader has it, which is slower and takes more."""
    try:
        text = line.decode("utf-8")
        value = json.loads(text, parse_float=_finite_float if exact else float)
        # half of a surrogate pair, which no UTF-8 can write
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        return BadRow(NOT_UTF8)
    except json.JSONDecodeError:
        reason, _, _ = orjson_error.partition(":")
        return BadRow(f"is not JSON ({reason}); expected one object a line")
    except (ValueError, RecursionError) as error:
        reason, _, _ = str(error).partition(":")
        return BadRow(f"cannot be read exactly ({reason}); repair it")
    return value


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.30} is beyond the range of a 64-bit float")
    return value


def to_json(record: dict[str, Any]) -> bytes:
    """Return a record as a line of JSON; NaN, infinities and large integers as they are.

    Raises:
        TypeError: a value that JSON has no form for.
    """
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        # orjson writes null for NaN and infinities
        if b"null" not in line or not _has_inexact([record]):
            return line
    except TypeError as error:
        # for an integer beyond 64 bits there is another writer
        if "64-bit" not in str(error):
            raise
    text = json.dumps(
        record,
        ensure_ascii=False,
        separators=(",", ":"),
        # dates and times, as orjson writes them
        default=lambda value: orjson.loads(orjson.dumps(value)),
    )
    return text.encode("utf-8") + b"\n"


def _has_inexact(values: Iterable[Any], depth: int = 0) -> bool:
    """Whether there is NaN, an infinity, or what may be an integer beyond 64 bits to orjson.

    Raises:
        RecursionError: there are values deeper in each other than can be written.
    """
    if depth > _DEEPEST:
        raise RecursionError
    # a loop, as this looks at every value of every record whose fields are kept
    for value in values:
        kind = type(value)
        if kind is float:
            # also true for NaN
            if not -_LEAST_INEXACT < value < _LEAST_INEXACT:
                return True
        elif kind is dict:
            if _has_inexact(value.values(), depth + 1):
                return True
        elif kind in (list, tuple) and _has_inexact(value, depth + 1):
            return True
    return False


# --- The text of a record


def get_text(row: Any, field: str) -> str | BadRow:
    """Return the text of a row by ``field``, as :func:`data_prep.documents.read` explains it."""
    if isinstance(row, BadRow):
        return row
    if not isinstance(row, dict):
        return BadRow(
            f"holds {type(row).__name__}, expected an object with the field {field!r}; repair it"
        )

    values = []
    for term in _terms(field, row):
        found = _values(row, term)
        if isinstance(found, BadRow):
            return found
        values += found

    # several are joined without those that are null
    if len(values) != 1:
        values = [value for value in values if value is not None]
    for value in values:
        if not isinstance(value, str):
            return BadRow(
                f"field {field!r} holds {type(value).__name__}, expected text; "
                f"name another field or repair it"
            )
    return "\n\n".join(filter(None, values))


def field_names(field: str, names: Container[str]) -> set[str]:
    """Return the fields of a record with ``names`` that :func:`get_text` reads."""
    found = set()
    for term in _terms(field, names):
        name = term
        if term not in names:
            name, _, _ = term.partition("[]")
        found.add(name)
    return found


def _terms(field: str, names: Container[str]) -> list[str]:
    """``a+b[]`` as its terms, unless a field is really called that."""
    if field in names:
        return [field]
    return field.split("+")


def _values(row: dict[str, Any], term: str) -> list[Any] | BadRow:
    """Return the value of a field, or those of a list's items."""
    # also a field that is really called a[], as `granite41 data filter` writes it
    if term in row:
        return [row[term]]
    name, _, item_field = term.partition("[]")
    if name not in row:
        names = ", ".join(sorted(row)[:8])
        return BadRow(f"no field {name!r} among {names}; name the field that holds the text")
    value = row[name]
    # only with brackets the name is another one than the term
    if not isinstance(value, list | None):
        return BadRow(
            f"field {name!r} holds {type(value).__name__}, expected a list; "
            f"name another field or repair it"
        )
    # a list that is null is an empty one
    key = item_field.removeprefix(".")
    return [_item_text(item, key) for item in value or ()]


def _item_text(item: Any, name: str) -> Any:
    """The field ``name`` of an item of a list, or without a name what the turn of a chat says."""
    if not isinstance(item, dict):
        return item
    if name:
        return item.get(name)
    return item.get("content", item.get("value"))
