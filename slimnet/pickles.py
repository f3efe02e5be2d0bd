"""What a torch file would make, read before it is made.

``torch.load(weights_only=True)`` runs no code of a file's, yet it calls what the file names among a
list of its own: ``torch.Tensor(1000)`` is a thousand numbers of whatever lay in memory,
``bytearray(10**10)`` fills it, and a key made of tuples that share tuples takes longer than a life
to hash. Here the operations of the pickle are followed without carrying them out: what is hashed
must be small, and what is called beside the functions that put tensors together is named.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from slimnet.errors import InputError
from slimnet.limits import DEEPEST, MOST, check_stored, shown

CALLED = frozenset(
    (
        *("collections OrderedDict", "collections Counter", "_codecs encode", "torch Size"),
        *("torch device", "torch.serialization _get_layout", "torch.nn.parameter Parameter"),
        *("__builtin__ set", "builtins set", "__builtin__ complex", "builtins complex"),
        "torch._tensor _rebuild_from_type_v2",
    )
)
"""What a file may have called, beside torch._utils' functions that put tensors together."""

_REBUILD = "torch._utils _rebuild_"
_PICKLES = 5  # in a file of torch before 1.6: a mark, a version, the machine, the object, its keys


def foreign_call(stream: BinaryIO, size: int, what: str) -> str | None:
    """The first function or class that a file of torch.save would call beside those; else None.

    ``stream`` is left at its start. Raises :class:`InputError` for a file that is damaged, or that
    nobody could walk through.
    """
    try:
        return next(_foreign_calls(stream, size, what), None)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{what} is truncated or damaged: get the file again") from error
    finally:
        stream.seek(0)


def _foreign_calls(stream: BinaryIO, size: int, what: str) -> Iterator[str]:
    called: list[str] = []
    if stream.read(4) == b"PK\x03\x04":
        with zipfile.ZipFile(stream) as archive:
            check_stored(archive.infolist(), size, what)
            for member in archive.namelist():
                if member.lower().endswith("data.pkl"):
                    called += _follow(io.BytesIO(archive.read(member)), what)
    else:
        stream.seek(0)
        for _ in range(_PICKLES):
            called += _follow(stream, what)
    yield from called


def _follow(stream: BinaryIO, what: str) -> list[str]:
    """What one pickle calls; an operation that nobody carries out ends it."""
    machine = _Machine(what)
    try:
        for operation, argument, _ in pickletools.genops(stream):
            step = _STEPS.get(operation.name)
            if step is None:
                break
            step(machine, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} is no torch file, or a damaged one") from error
    return machine.called


class _Value:
    """Something that a pickle makes: how many values it unfolds to, how deep, what it names."""

    __slots__ = ("depth", "name", "size", "text")

    def __init__(self, size: int = 1, depth: int = 0, name: str = "", text: str = "") -> None:
        self.size = size
        self.depth = depth
        self.name = name
        self.text = text


_ONE = _Value()


class _Machine:
    """The stack and the memo of a pickle, of outlines."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.stack: list[_Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Value] = {}
        self.hashed = 0
        self.called: list[str] = []  # beside what puts tensors together

    def push(self, value: _Value) -> None:
        """On top."""
        self.stack.append(value)

    def pop(self) -> _Value:
        """From the top."""
        return self.stack.pop()

    def marked(self) -> list[_Value]:
        """What lies above the last mark."""
        start = self.marks.pop()
        above, self.stack[start:] = self.stack[start:], []
        return above

    def tuple_of(self, entries: list[_Value]) -> None:
        """A tuple on top, if it is one that can be walked."""
        size = 1 + sum(entry.size for entry in entries)
        depth = 1 + max((entry.depth for entry in entries), default=0)
        if depth > DEEPEST or size > MOST:
            raise InputError(f"{self.what} holds tuples inside tuples without end")
        name = next((entry.name for entry in entries if entry.name), "")
        self.push(_Value(size, depth, name))

    def hash(self, keys: list[_Value]) -> None:
        """Count what has to be walked for these to become keys."""
        self.hashed += sum(key.size for key in keys)
        if self.hashed > MOST:
            raise InputError(f"{self.what} holds keys that are made of more than {MOST:,} values")

    def call(self) -> None:
        """What a function or class makes of its arguments."""
        given, function = self.pop(), self.pop()
        if function.name not in CALLED and not function.name.startswith(_REBUILD):
            self.called.append(_dotted(function.name))
        self.hash([given])
        self.push(_Value())


def _dotted(called: str) -> str:
    name = called.replace(" ", ".").removeprefix("__builtin__.")
    return name if all(mark.isalnum() or mark in "._" for mark in name) else shown(name)


Step = Callable[[_Machine, Any], None]


def _put(machine: _Machine, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


def _last(count: int) -> Step:
    return lambda machine, _: machine.tuple_of([machine.pop() for _ in range(count)][::-1])


def _drop(count: int) -> Step:
    def step(machine: _Machine, _: Any) -> None:
        del machine.stack[len(machine.stack) - count :]

    return step


def _set_item(machine: _Machine, _: Any) -> None:
    machine.pop()
    machine.hash([machine.pop()])


def _stored(machine: _Machine, _: Any) -> None:
    """A storage in place of what names it; it may be a class, in files of old."""
    machine.push(_Value(name=machine.pop().name))


def _text(machine: _Machine, text: str) -> None:
    machine.push(_Value(text=text))


def _named(machine: _Machine, _: Any) -> None:
    """What two texts name."""
    name, module = machine.pop().text, machine.pop().text
    machine.push(_Value(name=f"{module} {name}"))


def _call_with_names(machine: _Machine, _: Any) -> None:
    machine.pop()
    machine.call()


def _pop(machine: _Machine, _: Any) -> None:
    """The last value, or the mark where there is none above it."""
    if machine.marks[-1:] == [len(machine.stack)]:
        machine.marks.pop()
    else:
        machine.pop()


def _forget(machine: _Machine, _: Any) -> None:
    machine.marked()


def _made(*names: str) -> dict[str, Step]:
    return {name: lambda machine, _: machine.push(_ONE) for name in names}


_STEPS: dict[str, Step] = {
    **_made("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"),
    **_made("LONG4", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    **_made("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    "BINUNICODE": _text,
    "SHORT_BINUNICODE": _text,
    "GLOBAL": lambda machine, name: machine.push(_Value(name=name)),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.tuple_of(machine.marked()),
    "TUPLE1": _last(1),
    "TUPLE2": _last(2),
    "TUPLE3": _last(3),
    "APPEND": _drop(1),
    "APPENDS": _forget,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.hash(machine.marked()[::2]),
    "BUILD": _drop(1),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "NEWOBJ_EX": _call_with_names,
    "BINPERSID": _stored,
    "POP": _pop,
    "POP_MARK": _forget,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "FROZENSET": lambda machine, _: machine.tuple_of(machine.marked()),
    "ADDITEMS": lambda machine, _: machine.hash(machine.marked()),
    "STACK_GLOBAL": _named,
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    "FRAME": lambda machine, _: None,
    "BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: None,
}
"""The operations that torch, or :mod:`slimnet.networks.foreign`, carries out."""
