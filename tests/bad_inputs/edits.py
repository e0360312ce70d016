"""Random bytes, and random edits of a valid file, for hypothesis."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from hypothesis import strategies as st

from recipes.common.errors import UserError

# what stands in a file where something else was expected
ODD_VALUES = [
    None,
    True,
    False,
    0,
    -1,
    7,
    2**64 + 1,
    10**400,
    0.5,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "word",
    "two\nlines",
    "\x00",
    "\ud800",
    "../../elsewhere",
    "/",
    [],
    [None],
    ["word", 7],
    [[7]],
    {},
    {"word": 7},
    {"": None},
]
REMOVED = object()
Keys = tuple[str | int, ...]


def read_or_refuse(read: Callable[[], object]) -> bool:
    """Whether ``read`` returns; otherwise it must raise a UserError of one line."""
    try:
        read()
    except UserError as error:
        assert "\n" not in str(error), error
        return False
    return True


def edited_bytes(valid: bytes) -> st.SearchStrategy[bytes]:
    """Return random bytes, and ``valid`` with one to four edits of its bytes."""
    edits = st.lists(_byte_edit(len(valid)), min_size=1, max_size=4)
    return st.one_of(st.binary(max_size=64), edits.map(lambda chosen: _apply(valid, chosen)))


def edited_json(valid: bytes) -> st.SearchStrategy[bytes]:
    """Return :func:`edited_bytes`, and the JSON value in ``valid`` with other values in it."""
    values = _edited_values(json.loads(valid))
    return st.one_of(edited_bytes(valid), values.map(lambda value: json.dumps(value).encode()))


def edited_json_lines(valid: bytes) -> st.SearchStrategy[bytes]:
    """Return :func:`edited_bytes`, and the lines of ``valid`` with other values in them."""
    values = _edited_values([json.loads(line) for line in valid.splitlines()])
    return st.one_of(edited_bytes(valid), values.map(_lines))


def edited_yaml(valid: bytes) -> st.SearchStrategy[bytes]:
    """Return :func:`edited_bytes`, and the YAML document in ``valid`` with other values in it."""
    values = _edited_values(yaml.safe_load(valid))
    return st.one_of(edited_bytes(valid), values.map(lambda value: yaml.safe_dump(value).encode()))


def _lines(values: Any) -> bytes:
    # the list of lines may itself have been replaced
    if not isinstance(values, list):
        values = [values]
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def _byte_edit(size: int) -> st.SearchStrategy[Callable[[bytes], bytes]]:
    position = st.integers(0, size)
    length = st.integers(1, 40)
    return st.one_of(
        st.builds(_flip, position, st.integers(1, 255)),
        st.builds(_insert, position, st.binary(min_size=1, max_size=8)),
        st.builds(_duplicate, position, length),
        st.builds(_remove, position, length),
        st.builds(_cut, position),
    )


def _apply(content: bytes, edits: list[Callable[[bytes], bytes]]) -> bytes:
    for edit in edits:
        content = edit(content)
    return content


def _flip(position: int, bits: int) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        middle = bytes(byte ^ bits for byte in content[position : position + 1])
        return content[:position] + middle + content[position + 1 :]

    return edit


def _insert(position: int, more: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:position] + more + content[position:]


def _duplicate(position: int, length: int) -> Callable[[bytes], bytes]:
    return lambda content: content[: position + length] + content[position:]


def _remove(position: int, length: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:position] + content[position + length :]


def _cut(position: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:position]


def _edited_values(valid: Any) -> st.SearchStrategy[Any]:
    """Return ``valid`` with one or two of its values removed or replaced, at any depth."""
    edit = st.tuples(
        st.sampled_from(list(_all_keys(valid))),
        st.one_of(st.just(REMOVED), st.sampled_from(ODD_VALUES), st.text(max_size=4)),
    )
    return st.lists(edit, min_size=1, max_size=2).map(lambda edits: _replace(valid, edits))


def _all_keys(value: Any) -> Iterator[Keys]:
    """Yield the keys that lead to each value within ``value``, and to itself."""
    yield ()
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    for key, part in inner:
        for keys in _all_keys(part):
            yield (key, *keys)


def _replace(valid: Any, edits: list[tuple[Keys, Any]]) -> Any:
    root = [copy.deepcopy(valid)]
    for keys, value in edits:
        place: Any = root
        try:
            for key in (0, *keys)[:-1]:
                place = place[key]
            if value is REMOVED:
                del place[(0, *keys)[-1]]
            else:
                place[(0, *keys)[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            # an edit before this one has removed the place
            continue
    return root[0] if root else None
