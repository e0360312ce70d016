"""JSON and JSON-lines files: written whole; errors of reading name the file and the key."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, get_origin, get_type_hints

from recipes.common.errors import UserError
from recipes.common.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
# type of a field -> those of its value in a file; JSON has one kind of list
_JSON_TYPES: dict[Any, tuple[type, ...]] = {
    dict: (dict,),
    list: (list, tuple),
    tuple: (list, tuple),
}
# sums and products of two numbers below it are finite
_BOUND = 1e100


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a number that arithmetic does not take beyond all bounds."""
    # a bool is an int
    return type(value) in (float, int) and abs(value) < _BOUND


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Args:
        remedy: what the user can do about a file that is missing or damaged, the end of a sentence.

    Raises:
        UserError: the file is missing, not UTF-8, not JSON, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error}); {remedy}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: holds a JSON {type(value).__name__}, expected an object; {remedy}"
        )
    return value


def read_json_or_none(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in ``path``, or None where there is none that can be read."""
    try:
        return read_json(path, "")
    except UserError:
        return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write ``value`` to ``path``, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def read_record(record_type: type[Record], path: Path, remedy: str) -> Record:
    """Return the dataclass that :func:`write_record` wrote to ``path``; other keys are ignored.

    Raises:
        UserError: as :func:`read_json`; a key is missing, or holds another type than its field.
    """
    return parse_record(
        record_type,
        read_json(path, remedy),
        str(path),
        remedy,
    )


def parse_record(
    record_type: type[Record],
    value: dict[str, Any],
    where: str,
    remedy: str,
) -> Record:
    """Return ``value`` as ``record_type``, nested as its fields say.

    Args:
        where: the file, for the sentence of an error.

    Raises:
        UserError: a key is missing, or holds another type than its field or an absurd number.
    """
    import dacite

    _require_containers(record_type, value, where, remedy)
    for name in _beyond_bounds(value):
        raise UserError(f"{where}: key {name!r} holds a number beyond all bounds; {remedy}")
    # JSON has no tuples
    config = dacite.Config(cast=[tuple], check_types=True)
    try:
        return dacite.from_dict(record_type, value, config)
    except dacite.MissingValueError as error:
        raise UserError(f"{where}: has no key {error.field_path!r}; {remedy}") from error
    except dacite.WrongTypeError as error:
        wrong = _get_at(value, error.field_path, error.value)
        raise UserError(
            f"{where}: key {error.field_path!r} holds {wrong!r:.60} ({type(wrong).__name__}); "
            f"{remedy}"
        ) from error
    except (dacite.DaciteError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: is damaged ({error}); {remedy}") from error


def _get_at(value: Any, field_path: str | None, default: Any) -> Any:
    """Return the value at a path such as ``model.hidden_size``, which dacite may have converted."""
    for key in (field_path or "").split("."):
        if not isinstance(value, dict) or key not in value:
            return default
        value = value[key]
    return value


def _require_containers(
    record_type: type[Record],
    value: dict[str, Any],
    where: str,
    remedy: str,
) -> None:
    """Raise UserError where a list or an object is another type, which dacite does not name."""
    for name, hint in get_type_hints(record_type).items():
        expected = _JSON_TYPES.get(get_origin(hint) or hint)
        if expected is None or name not in value:
            continue
        if not isinstance(value[name], expected):
            found = type(value[name]).__name__
            raise UserError(f"{where}: key {name!r} holds {value[name]!r:.60} ({found}); {remedy}")


def _beyond_bounds(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of numbers that sums of them would take beyond what a float holds."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _beyond_bounds(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _beyond_bounds(item, path)
    # a model may score infinity
    elif isinstance(value, int | float) and _BOUND <= abs(value) < math.inf:
        yield path


def write_record(path: Path, record: "DataclassInstance") -> None:
    """Write a dataclass as a JSON object, whole or not at all."""
    write_json(path, asdict(record))


def read_json_lines(path: Path, damaged: list[int] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; a last line without a newline is left out.

    Such a line is still being written.

    Args:
        damaged: receives the numbers, from 1, of lines that hold no JSON object; without it
            such a line raises.

    Raises:
        UserError: the file cannot be read, or a line holds no JSON object and ``damaged`` is None.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                value = _object_or_none(line)
                if value is not None:
                    yield value
                elif damaged is None:
                    raise UserError(
                        f"{path}: line {number} holds no JSON object; remove the line, or the file"
                    )
                else:
                    damaged.append(number)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _object_or_none(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
