"""The two processes behind a verdict: the program's, and the judge's, which alone decides.

The program's process runs what a model wrote and answers calls of its functions. The judge's
process, which the program can neither see nor reach, runs the tests and calls those functions.
Between the two pass values of built-in types, as text: an object with methods of its own, such as
an ``__eq__`` that is always true, arrives as the built-in value that it extends or as an
:class:`Opaque` one.
Standard library only: both run inside :mod:`evaluation.sandbox_launcher`.
"""

import builtins
import contextlib
import itertools
import json
import os
import signal
import sys
import types
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

PASSED = "passed"
ENDED = "ended"

MESSAGE_BYTES = 16 * 2**20  # of an answer or a report
PRINTED_BYTES = 2**20
ITERATOR_ITEMS = 2**16
REASON_CHARACTERS = 500
# an exception of these would end a loop of the tests in silence
_SILENT = (StopIteration, StopAsyncIteration)

_READERS: dict[str, Callable[[Any], Any]] = {
    "int": partial(int, base=16),
    "bytes": bytes.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "iterator": lambda parts: iter(list(parts)),
    "object": lambda kind: Opaque(kind),
}


@dataclass(frozen=True, eq=False)
class Opaque:
    """An object of the program that is no plain value: true, and equal to itself alone.

    Attributes:
        kind: name of its class.
    """

    kind: str


def send(file: int, message: bytes) -> None:
    """Write ``message`` with its length before it."""
    data = memoryview(len(message).to_bytes(8, "big") + message)
    while data:
        data = data[os.write(file, data) :]


def receive(file: int, limit: int = sys.maxsize) -> bytes:
    """Return the next message.

    Raises:
        EOFError: the other side is gone.
        ValueError: the message has more bytes than ``limit``.
    """
    size = int.from_bytes(_read(file, 8), "big")
    if size > limit:
        raise ValueError(f"{size} bytes, more than {limit}")
    return _read(file, size)


def _read(file: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(file, min(size - len(data), 2**16))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def encode(value: Any) -> bytes:
    """Return ``value`` as JSON; what JSON lacks is ``{KIND: CONTENT}``."""
    return json.dumps(_tag(value)).encode()


def decode(message: bytes) -> Any:
    """Return the value of a message: built-in types and :class:`Opaque`, whoever wrote it.

    Raises:
        Exception: of several kinds, for a message that :func:`encode` does not write.
    """
    return json.loads(message, object_hook=_untag)


def _tag(value: Any) -> Any:
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int) and value.bit_length() <= 64:
        return value
    if isinstance(value, list):
        return _tag_all(value)
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: _tag_all(value)}
    if isinstance(value, dict):
        return {"dict": [_tag_all(item) for item in value.items()]}
    return _tag_rare(value)


def _tag_rare(value: Any) -> Any:
    if isinstance(value, int):
        # Python reads no more than 4,300 decimal digits
        return {"int": hex(value)}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": _tag_all((value.start, value.stop, value.step))}
    if isinstance(value, Iterator | KeysView | ValuesView | ItemsView):
        return {"iterator": _tag_all(itertools.islice(value, ITERATOR_ITEMS))}
    if isinstance(value, Opaque):
        return {"object": value.kind}
    # a number of NumPy, if it is imported
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return _tag(value.item())
    return {"object": type(value).__name__}


def _tag_all(values: Any) -> list[Any]:
    return [_tag(value) for value in values]


def _untag(tagged: dict[str, Any]) -> Any:
    ((kind, content),) = tagged.items()
    return _READERS[kind](content)


def run_program(program: str, calls: int, answers: int) -> None:
    """Run ``program`` as ``__main__``, then answer the calls of its functions until they end."""
    process = os.getpid()
    namespace = _main_namespace()
    answer = _attempt(partial(_run_to_end, program, namespace))
    # a child that the program has forked answers nothing
    while os.getpid() == process:
        try:
            send(answers, answer)
            name, arguments, named = decode(receive(calls))
        except Exception:
            # the end of the calls, or the program has made another use of the files
            return
        answer = _attempt(partial(_call, namespace, name, arguments, named))


def _run_to_end(program: str, namespace: dict[str, Any]) -> None:
    try:
        _execute("program", program, namespace)
    except SystemExit as error:
        if error.code not in (None, 0):
            raise


def _call(
    namespace: dict[str, Any],
    name: str,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Any:
    if name not in namespace:
        raise NameError(f"name {name!r} is not defined")
    return namespace[name](*arguments, **named)


def _attempt(action: Callable[[], Any]) -> bytes:
    """Return the answer to a call: ``[KIND, VALUE]``, of an exception its builtin kind."""
    try:
        value = action()
        return encode(["returned", value])
    except BaseException as error:
        kinds = type(error).__mro__
        builtin = next(kind for kind in kinds if kind.__module__ == "builtins")
        return encode([builtin.__name__, _message(error)])


def _message(error: BaseException) -> str:
    # str() may be the program's own code
    try:
        # the text of a KeyError is not its argument
        if len(error.args) == 1:
            return str(error.args[0])
        return str(error)
    except BaseException:
        return ""


def _exception(kind: str, message: str) -> Exception:
    """Return the exception that the program raised, of a kind that only an ``except`` catches."""
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception) and found not in _SILENT:
        # some kinds need more than a message
        with contextlib.suppress(TypeError):
            return found(message)
    return RuntimeError(f"{kind}: {message}")


@dataclass
class Judge:
    """Calls a program's functions, and reports once.

    Attributes:
        program: process id of the program.
        calls: file to which the calls are written.
        answers: file from which the program's answers are read.
        printed: file of what the program prints.
        report: file to which the report is written.
        returned: values of the calls of :meth:`collect`.
    """

    program: int
    calls: int
    answers: int
    printed: int
    report: int
    returned: list[Any] = field(default_factory=list)

    def decide(self, setup: str, functions: list[str], tests: str) -> NoReturn:
        """Run the tests, in which ``functions`` are the program's, and report how they end."""
        namespace = _main_namespace()
        try:
            self._answer()
            _execute("setup", setup, namespace)
            for name in functions:
                namespace[name] = partial(self._call, name)
            _execute("tests", tests, namespace)
        except BaseException as error:
            self._end(_failure(error))
        self._end(PASSED)

    def collect(self, calls: list[tuple[str, tuple[Any, ...]]]) -> NoReturn:
        """Make the calls, let the program end as Python does, and report what it gave."""
        reason = ""
        try:
            self._answer()
            for name, arguments in calls:
                self.returned.append(self._call(name, *arguments))
        except Exception as error:
            reason = _failure(error)
        os.close(self.calls)
        ending = self._ending()
        self._end(reason or ending or ENDED)

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Return what the program's function returns; raise what it raises."""
        message = encode([name, arguments, named])
        # within a string the quotes would be escaped
        if b'{"object": ' in message:
            self._end(f"unjudgeable: the tests call {name} with more than plain values")
        # a program that is gone is noticed by its missing answer
        with contextlib.suppress(BrokenPipeError):
            send(self.calls, message)
        return self._answer()

    def _answer(self) -> Any:
        """Return the value of the next answer; a broken one is the end of the judgment."""
        try:
            kind, value = decode(receive(self.answers, MESSAGE_BYTES))
        except EOFError:
            self._end(self._ending() or "failed: left with exit status 0 before its end")
        except Exception as error:
            self._end(f"failed: an answer that is no plain value ({type(error).__name__})")
        if kind == "returned":
            return value
        raise _exception(str(kind), str(value))

    def _ending(self) -> str:
        """Wait for the program's end and describe it; nothing of an exit status of 0."""
        _, wait_status = os.waitpid(self.program, 0)
        status = os.waitstatus_to_exitcode(wait_status)
        if status == 0:
            return ""
        if status < 0:
            return f"killed: {signal.Signals(-status).name}"
        return f"failed: left with exit status {status} before its end"

    def _end(self, reason: str) -> NoReturn:
        """Report and leave at once: no exception, which tests could catch."""
        report = {
            "reason": reason[:REASON_CHARACTERS],
            "printed": os.pread(self.printed, PRINTED_BYTES, 0).decode(errors="replace"),
            "returned": self.returned,
        }
        send(self.report, encode(report))
        os._exit(0)


def _main_namespace() -> dict[str, Any]:
    """Return the names of a new ``__main__``."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    return module.__dict__


def _execute(name: str, source: str, namespace: dict[str, Any]) -> None:
    code = compile(source, f"<{name}>", "exec")
    exec(code, namespace)  # noqa: S102


def _failure(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"failed: {type(error).__name__}: {error}".removesuffix(": ")
