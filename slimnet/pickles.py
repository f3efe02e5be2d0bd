"""What a torch file would make, read before it is made.

``torch.load(weights_only=True)`` runs no code of a file's, yet it calls what the file names among a
list of its own: ``torch.Tensor(1000)`` is a thousand numbers of whatever lay in memory,
``bytearray(10**10)`` fills it, and a key made of tuples that share tuples takes longer than a life
to hash. Here the operations of the pickle are followed without carrying them out: what is called
must be one of the functions that put tensors together, and what is hashed must be small.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable
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


def check_torch_file(stream: BinaryIO, size: int, what: str, *, foreign: bool = False) -> None:
    """Refuse a file that torch.save did not make of plain data; ``stream`` is left at its start.

    With ``foreign``, calls of anything else pass: a reader that carries none out will name them.
    Raises :class:`InputError`; zipfile.BadZipFile and the like for one that is damaged.
    """
    if stream.read(4) == b"PK\x03\x04":
        with zipfile.ZipFile(stream) as archive:
            check_stored(archive.infolist(), size, what)
            for member in archive.namelist():
                if member.lower().endswith("data.pkl"):
                    _follow(io.BytesIO(archive.read(member)), what, foreign)
    else:
        stream.seek(0)
        for _ in range(_PICKLES):
            _follow(stream, what, foreign)
    stream.seek(0)


def _follow(stream: BinaryIO, what: str, foreign: bool) -> None:
    """Follow one pickle; an operation that no reader knows ends it, as it ends the reader."""
    machine = _Machine(what, foreign)
    try:
        for operation, argument, _ in pickletools.genops(stream):
            step = _STEPS.get(operation.name)
            if step is None:
                return
            step(machine, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} is no torch file, or a damaged one") from error


class _Value:
    """Something that a pickle makes: how many values it unfolds to, how deep, what it names."""

    __slots__ = ("depth", "name", "size")

    def __init__(self, size: int = 1, depth: int = 0, name: str = "") -> None:
        self.size = size
        self.depth = depth
        self.name = name


_ONE = _Value()


class _Machine:
    """The stack and the memo of a pickle, of outlines."""

    def __init__(self, what: str, foreign: bool) -> None:
        self.what = what
        self.foreign = foreign
        self.stack: list[_Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Value] = {}
        self.hashed = 0

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

    def named(self) -> None:
        """Something whose name lies on the stack: which, is not looked at."""
        self.pop()
        self.pop()
        self.push(_Value(name="something"))

    def call(self) -> None:
        """What a function or class makes of its arguments."""
        given, function = self.pop(), self.pop()
        known = function.name in CALLED or function.name.startswith(_REBUILD)
        if not known and not self.foreign:
            raise InputError(
                f"{self.what} is a pickled Python object ({_dotted(function.name)}); loading one "
                "runs its code: save its state_dict() instead, or pass --allow-pickle if you trust "
                "it"
            )
        self.hash([given])
        self.push(_Value())


def _dotted(called: str) -> str:
    name = called.replace(" ", ".")
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


def _make_with_names(machine: _Machine, _: Any) -> None:
    machine.pop()
    machine.call()


def _made(*names: str) -> dict[str, Step]:
    return {name: lambda machine, _: machine.push(_ONE) for name in names}


_STEPS: dict[str, Step] = {
    **_made("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"),
    **_made(
        "BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"
    ),
    "GLOBAL": lambda machine, name: machine.push(_Value(name=name)),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.tuple_of(machine.marked()),
    "TUPLE1": _last(1),
    "TUPLE2": _last(2),
    "TUPLE3": _last(3),
    "APPEND": _drop(1),
    "APPENDS": lambda machine, _: machine.hash(machine.marked()[:0]),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.hash(machine.marked()[::2]),
    "BUILD": _drop(1),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BINPERSID": _stored,
    "BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    # of later protocols, and as other programs write them
    **_made("LONG4", "BINSTRING", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
    "FRAME": lambda machine, _: None,
    "POP": _drop(1),
    "POP_MARK": lambda machine, _: machine.hash(machine.marked()[:0]),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "STACK_GLOBAL": lambda machine, _: machine.named(),
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    "FROZENSET": lambda machine, _: machine.tuple_of(machine.marked()),
    "ADDITEMS": lambda machine, _: machine.hash(machine.marked()),
    "NEWOBJ_EX": _make_with_names,
}
"""The operations that torch, or :mod:`slimnet.networks.foreign`, carries out."""
