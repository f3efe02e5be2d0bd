"""Read a pickle as data: tensors, numbers and containers; any other object is only named.

``torch.load(weights_only=True)`` refuses a whole file for one ``argparse.Namespace`` beside the
weights. Here such an object becomes a :class:`Foreign`, which knows what it was called in the file.
Nothing is looked up by a name from the file: no module is imported, no class is made, and nothing
is called but the few makers of tensors and containers below, which are compared by name.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class Foreign(dict[Any, Any]):
    """An object that was not made: its class, and what was put into it as into a dict."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key, or lie in a set

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def load_inert(file: Path, *, mapped: bool) -> Any:
    """What a file of torch.save holds, foreign objects named; raises whatever a broken file does.

    torch finds and maps the storages; :class:`_InertUnpickler` reads the pickle between them.
    """
    module = ModuleType("inert")
    vars(module).update(
        Unpickler=_InertUnpickler, load=lambda file, **more: _InertUnpickler(file, **more).load()
    )
    return torch.load(
        file, map_location="cpu", weights_only=False, mmap=mapped, pickle_module=module
    )


@dataclass(frozen=True)
class _Global:
    """The name of something that a pickle asks for."""

    name: str


_Unpickler: Any = pickle._Unpickler  # Python's own reader, written in Python


class _InertUnpickler(_Unpickler):  # type: ignore[misc]
    """A reader of pickles in which no opcode imports, calls or changes what a file names."""

    def find_class(self, module: str, name: str) -> Any:
        """The bare name; of types of numbers and storages themselves."""
        if module == "torch" and isinstance(kind := vars(torch).get(name), torch.dtype):
            return kind
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return torch.UntypedStorage
        return _Global(f"{module}.{name}")

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _constructed(self.stack[-1], args)

    def _new(self) -> None:
        self.stack.pop()
        self.stack[-1] = _constructed(self.stack[-1], ())

    def _new_with_names(self) -> None:
        self.stack.pop()
        self._new()

    def _build(self) -> None:
        self.stack.pop()  # an object's state: there is no object to give it to

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _into(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        _into(self.stack[-1], items)

    def _append(self) -> None:
        item = self.stack.pop()
        _add(self.stack[-1], [item])

    def _append_all(self) -> None:
        items = self.pop_mark()
        _add(self.stack[-1], items)

    def _stored(self) -> None:
        key = self.stack.pop()
        if type(key) is not tuple or key[:1] not in (("storage",), (b"storage",)):
            raise pickle.UnpicklingError("only tensors lie outside the pickle")
        self.append(self.persistent_load(key))


def _constructed(what: Any, args: Any) -> Any:
    """A tensor or a container where one is asked for; else a :class:`Foreign`."""
    if not isinstance(what, _Global):
        return Foreign(type(what).__name__)
    maker = _MAKERS.get(what.name)
    return Foreign(what.name) if maker is None else maker(*args)


def _into(target: Any, items: list[Any]) -> None:
    if isinstance(target, dict):
        target.update(zip(items[::2], items[1::2], strict=True))


def _add(target: Any, items: list[Any]) -> None:
    if type(target) is list:
        target.extend(items)
    elif type(target) is set:
        target.update(items)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Any:
    """A view of a storage, which must hold all of it; hooks and what else it had stay away."""
    return _viewed(storage, storage.dtype, offset, size, stride)


def _tensor_of_type(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, kind: Any, *more: Any
) -> Any:
    return _viewed(storage, kind, offset, size, stride)


def _viewed(storage: Any, kind: Any, offset: int, size: Any, stride: Any) -> Tensor:
    tensor = torch.empty(0, dtype=kind)
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in numbers):
        raise pickle.UnpicklingError(f"no tensor has the shape {size} and strides {stride}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    raw = storage._untyped_storage
    if 0 not in size and (last + 1) * tensor.element_size() > raw.nbytes():
        raise pickle.UnpicklingError("a tensor is larger than what is stored of it")
    return tensor.set_(raw, offset, size, stride)


def _parameter(data: Any, requires_grad: Any, *more: Any) -> Any:
    return nn.Parameter(data, bool(requires_grad)) if isinstance(data, Tensor) else data


def _with_attributes(maker: Any, kind: Any, args: Any, state: Any) -> Any:
    """A tensor on which somebody left notes; of a class of its own, it is not made."""
    plain = kind in (_Global("torch.Tensor"), _Global("torch.nn.parameter.Parameter"))
    return (
        _constructed(maker, args) if plain else Foreign(getattr(kind, "name", "a tensor's class"))
    )


_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": lambda *given: {},
    "torch.Size": tuple,
    "_codecs.encode": lambda text, coding: text.encode("latin1"),  # how protocol 2 writes bytes
}

_READS: dict[bytes, Callable[[_InertUnpickler], None]] = {
    pickle.REDUCE: _InertUnpickler._reduce,
    pickle.NEWOBJ: _InertUnpickler._new,
    pickle.NEWOBJ_EX: _InertUnpickler._new_with_names,
    pickle.BUILD: _InertUnpickler._build,
    pickle.SETITEM: _InertUnpickler._set_item,
    pickle.SETITEMS: _InertUnpickler._set_items,
    pickle.APPEND: _InertUnpickler._append,
    pickle.APPENDS: _InertUnpickler._append_all,
    pickle.ADDITEMS: _InertUnpickler._append_all,
    pickle.BINPERSID: _InertUnpickler._stored,
}
_PLAIN = (  # numbers, texts, containers, the stack and the memo, of protocols 2 to 5
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.DUP, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.NONE, pickle.NEWTRUE),
    *(pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.LONG4, pickle.BINFLOAT, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES),
    *(pickle.SHORT_BINBYTES, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.TUPLE),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST),
    *(pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.FROZENSET, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
)
# Every other opcode is unknown: those that make instances, read extensions or take buffers.
_InertUnpickler.dispatch = {
    **{code[0]: _Unpickler.dispatch[code[0]] for code in _PLAIN},
    **{code[0]: read for code, read in _READS.items()},
}
