"""Record one forward pass: every ATen call that really ran.

Takes a model and example inputs, gives a :class:`Trace`. Nothing has to be scriptable, exportable
or free of Python control flow: whatever runs can be recorded. A tensor is known by the identity of
its Python object. The recorder holds only weak references, so no activation is kept alive. As
parameters and buffers are known in the same way, tied weights, shared modules and raw parameters
need no special case.

Two modes record together: :class:`_SizeTracking` sees the public torch functions that the user's
code calls, :class:`_Recorder` the ATen calls below them.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from slimnet.capture.attributes import remember_attributes
from slimnet.capture.caches import forget_sizes, forgetful, remembering
from slimnet.capture.composites import OPENED, composite, is_composite, opened
from slimnet.capture.conversions import remembering_conversions
from slimnet.capture.graph import Call, DataflowGraph, Ref, Request
from slimnet.capture.journal import Equality, Journal, journal, keeping
from slimnet.capture.modules import evaluation_mode
from slimnet.capture.randomness import drawing_from
from slimnet.capture.sites import Site, Sites
from slimnet.capture.sizes import Amount, Size, SizeSource, shape_of
from slimnet.errors import CaptureError
from slimnet.example import check_outputs, is_read, map_tensors, named_tensors
from slimnet.exclusive import exclusive
from slimnet.network import Network
from slimnet.operator import of
from slimnet.quiet import unwarned
from slimnet.text import first_line


@dataclass(eq=False)
class Trace:
    """A recorded pass: the calls in order, and the network's inputs and outputs."""

    calls: list[Call] = field(default_factory=list)
    tensors: dict[str, Ref] = field(default_factory=dict)  # parameters and buffers that were used
    inputs: list[Ref] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of the outputs: "boxes.0"; "" of the only one
    wanted: tuple[str, ...] = ()  # outputs that somebody reads; all where empty
    equalities: list[Equality] = field(default_factory=list)  # numbers that the code found equal
    holders: Collection[str] = ()  # paths of modules without a forward, such as a ModuleList

    @cached_property
    def graph(self) -> DataflowGraph:
        """Which call makes each tensor and which calls read it; use it once the pass is over."""
        return DataflowGraph(self.calls, self.inputs, self.outputs, self.holders)

    def reading(self, names: Sequence[str]) -> Trace:
        """The same pass, of which somebody reads these outputs only.

        Raises :class:`InputError` for a name that no output has.
        """
        check_outputs(names, self.names)
        return replace(self, wanted=tuple(names))

    @property
    def read(self) -> list[Ref]:
        """The outputs that somebody reads."""
        if not self.wanted:
            return self.outputs
        pairs = zip(self.names, self.outputs, strict=True)
        return [ref for name, ref in pairs if is_read(name, self.wanted)]


def capture(network: Network, example: tuple[Any, ...], *, training: bool = False) -> Trace:
    """Record the model on the example in evaluation mode, without gradients.

    With ``training`` the pass runs in training mode (the example should then hold two samples or
    more, for batch norms); running statistics are put back afterwards. The model runs up to three
    times: again with empty caches where its code hashed a size (:mod:`.caches`), and again with
    another ``int`` and ``len`` where its code made a plain integer of one (:mod:`.conversions`).
    Raises :class:`CaptureError` where the model does not run on the example.
    """
    with exclusive():
        notes = Journal()
        try:
            trace = _one_pass(network, example, training, notes)
        finally:
            cached = remembering(notes.hashing)
            forget_sizes(cached)
        if cached:
            with forgetful(cached):
                trace = _one_pass(network, example, training, notes)
        if notes.converting:
            conversions = remembering_conversions(notes.converting)
            # code that needs Python's own int fails here: the trace of the pass before stays
            with suppress(CaptureError), forgetful(cached), conversions:
                trace = _one_pass(network, example, training, Journal())
    return trace


def _one_pass(network: Network, example: tuple[Any, ...], training: bool, notes: Journal) -> Trace:
    recorder = _Recorder(network)
    notes.site = recorder.site
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_mode(network, training=training))
        stack.enter_context(fast_paths_off())
        stack.enter_context(drawing_from(0))  # two passes draw the same random numbers
        stack.enter_context(unwarned())
        example = map_tensors(Tensor.clone, example)  # a forward may write into its input
        recorder.read_inputs(example)
        stack.callback(recorder.restore_weights)
        stack.enter_context(recorder)
        stack.enter_context(_SizeTracking(recorder))
        remember_attributes(network, recorder.is_weight)
        stack.enter_context(keeping(notes))
        try:
            output = network.model(*example)
        except Exception as error:
            raise CaptureError(_failure(network.name, example, error)) from error
    named = named_tensors(output)
    recorder.trace.outputs = [recorder.register_use(tensor) for _, tensor in named]
    recorder.trace.names = [name for name, _ in named]
    recorder.trace.equalities = list(notes.equalities.values())
    return recorder.trace


def _failure(name: str, example: tuple[Any, ...], error: Exception) -> str:
    shapes = ", ".join(
        str(tuple(leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor)
    )
    return (
        f"{name} does not run on an input of shape {shapes}: {first_line(error)}; "
        "give the shape that it was made for (--input, or the example argument)"
    )


@contextmanager
def fast_paths_off() -> Iterator[None]:
    """Without fused multi-head attention and compiled functions, which hide their operators."""
    with exclusive():
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with _uncompiled():
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(before)


def _uncompiled() -> AbstractContextManager[Any]:
    """Compiled functions run their Python code.

    Where the compiler was not imported, nothing is compiled; importing it takes two seconds.
    """
    used = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if used else nullcontext()


def outside_transforms() -> AbstractContextManager[Any]:
    """As outside of ``torch.func.vmap`` and the like: inside, a new tensor is a batched one."""
    machinery = sys.modules.get("torch._functorch.pyfunctorch")  # there if vmap was ever used
    clear = getattr(machinery, "temporarily_clear_interpreter_stack", None)
    return clear() if clear is not None else nullcontext()


class _SizeTracking(TorchFunctionMode):
    """Sees the calls of public torch functions.

    A shape that is read is given as :class:`~slimnet.capture.sizes.Size`, which remember where they
    are from. Of every other function the recorder notes that the next ATen calls belong to it.
    """

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SHAPE_READS:
            return self._shape(func, args, kwargs)
        if func in _ELEMENT_COUNTS:
            return shape_of(self.recorder.ref(args[0]).id, tuple(args[0].shape)).numel()
        if func is Tensor.__len__ and (notes := journal()):
            notes.converted()
        op = composite(func, args)
        if op is not None:  # recorded as one call, such as an LSTM
            return self.recorder.record_composite(op, func, args, kwargs)
        if func in OPENED:  # Python code of torch: its own calls are seen too
            with self:
                return opened(func)(*args, **kwargs)
        recorder, outer = self.recorder, self.recorder.request
        recorder.request = recorder.request_of(func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        finally:
            recorder.request = outer
        if func == _DATA_READ:
            recorder.alias(result, args[0])
        return result

    def _shape(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """What a read of a shape gives: all lengths, or the one of ``dim``."""
        answer = func(*args, **kwargs)
        lengths = shape_of(self.recorder.ref(args[0]).id, tuple(args[0].shape))
        if isinstance(answer, torch.Size):
            return lengths
        return lengths[args[1] if args[1:] else kwargs["dim"]]


_DATA_READ = Tensor.data.__get__  # type: ignore[attr-defined]
_SHAPE_READS = {
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.size,
    torch.ops.aten.sym_size.int,
}
_ELEMENT_COUNTS = {Tensor.numel, Tensor.nelement, torch.numel}


class AtenMode(TorchDispatchMode):
    """A mode that sees ATen calls, for networks that run without the compiler."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """With True, torch would import the compiler for this mode, which takes two seconds."""
        return False


class _Recorder(AtenMode):
    """Sees the ATen calls below autograd and adds them to the trace."""

    def __init__(self, network: Network) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        modules = network.modules.items()
        holders = (path for path, m in modules if type(m).forward is nn.Module.forward)
        self.trace = Trace(holders=frozenset(holders))
        self.request: Request | None = None
        self._refs: dict[int, tuple[weakref.ref[Tensor], Ref]] = {}  # by the tensor's identity
        self._sites = Sites({id(module): path for path, module in modules}, _one_pass.__code__)
        self._weights = network.names
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}

    def read_inputs(self, example: tuple[Any, ...]) -> None:
        """Register the network's inputs."""
        for leaf in tree_leaves(example):
            if isinstance(leaf, Tensor):
                self.trace.inputs.append(self._remember(leaf, kind="input"))

    def ref(self, tensor: Tensor) -> Ref:
        """The :class:`Ref` of a tensor; one seen for the first time is a weight or a constant."""
        entry = self._refs.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            return entry[1]
        name = self._weights.get(id(tensor))
        if name is None:
            ref = self._remember(tensor, kind="constant")
            return (
                replace(ref, values=np.asarray(tensor.tolist()))
                if _has_one_element(tensor)
                else ref
            )
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        trains = kind == "parameter" and tensor.requires_grad
        return self._remember(tensor, kind=kind, name=name, trains=trains)

    def register_use(self, tensor: Tensor) -> Ref:
        """The :class:`Ref` of a tensor that a call takes or the network returns.

        Parameters and buffers are then among the trace's tensors; one whose shape alone is read is
        not.
        """
        ref = self.ref(tensor)
        if ref.name is not None:
            self.trace.tensors.setdefault(ref.name, ref)
        return ref

    def is_weight(self, number: int) -> bool:
        """Whether the :class:`Ref` of this number is a parameter's or buffer's."""
        return any(ref.id == number and ref.name is not None for _, ref in self._refs.values())

    def site(self) -> Site:
        """The user's line that is running."""
        return self._sites.here()

    def record_composite(self, op: Any, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Record a public function as one call, without the ATen calls that it makes."""
        recorded = tuple(self._with_refs(op, arg) for arg in args)
        named = {key: self._with_refs(op, value) for key, value in kwargs.items()}
        with _disable_current_modes():
            result = func(*args, **kwargs)
        outputs = result if isinstance(result, tuple) else (result,)
        refs = tuple(self._remember(out, kind="activation") for out in outputs)
        site = self._sites.here()
        calls = self.trace.calls
        request = _request(func, recorded, named)
        calls.append(Call(len(calls), op, recorded, named, refs, site, request))
        return result

    def request_of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """The user's call, with a :class:`Ref` for each tensor, so that no tensor is kept."""
        named = {key: self._with_refs(None, value) for key, value in kwargs.items()}
        plain = tuple(self._with_refs(None, value) for value in args)
        return _request(func, plain, named)

    def alias(self, new: Tensor, old: Tensor) -> None:
        """Give ``new`` the :class:`Ref` of ``old``: ``x.data`` is a new object, the same tensor."""
        self._refs[id(new)] = (weakref.ref(new), self.ref(old))

    def _remember(
        self, tensor: Tensor, *, kind: str, name: str | None = None, trains: bool = False
    ) -> Ref:
        shape = tuple(tensor.shape)
        ref = Ref(next(_NUMBERS), shape, name, kind, tensor.dtype, trains=trains)
        self._refs[id(tensor)] = (weakref.ref(tensor), ref)
        return ref

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NOT_RECORDED:
            return func(*args, **kwargs)
        if is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        if func._schema.is_mutable:
            self._save_weights(func, args)
        recorded = tuple(self._with_refs(func, arg) for arg in args)
        named = {key: self._with_refs(func, value) for key, value in kwargs.items()}
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        refs = tuple(
            self._remember(out, kind="activation") for out in outputs if isinstance(out, Tensor)
        )
        calls = self.trace.calls
        site = self._sites.here()
        calls.append(Call(len(calls), func, recorded, named, refs, site, self.request))
        return result

    def _save_weights(self, func: Any, args: tuple[Any, ...]) -> None:
        """Remember the value of a parameter or buffer that is about to be written to."""
        for argument, arg in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and id(arg) in self._weights and id(arg) not in self._saved:
                self._saved[id(arg)] = (arg, arg.clone())

    def restore_weights(self) -> None:
        """Undo what the pass wrote into parameters and buffers."""
        for tensor, value in self._saved.values():
            if tensor.shape != value.shape:  # an observer makes its buffers on first use
                tensor.resize_(value.shape)
            tensor.copy_(value)

    def _with_refs(self, func: Any, value: Any) -> Any:
        """An argument with a :class:`Ref` in place of each tensor."""
        if isinstance(value, Tensor):
            return self._with_values(func, value, self.register_use(value))
        if isinstance(value, (list, tuple)):
            return [self._with_refs(func, entry) for entry in value]
        if isinstance(value, slice):
            return slice(*(self._with_refs(func, x) for x in (value.start, value.stop, value.step)))
        return value

    def _with_values(self, func: Any, tensor: Tensor, ref: Ref) -> Ref:
        """With an index tensor's values, where the operator's rule reads them."""
        if tensor.is_floating_point() or tensor.numel() > _INDEX_LIMIT:
            return ref
        if func is None or not of(func).values:
            return ref
        values = tensor.detach().cpu().numpy().copy()
        return replace(ref, values=values)


def _has_one_element(tensor: Tensor) -> bool:
    return tensor.numel() == 1 and not tensor.is_meta and tensor.layout == torch.strided


def _request(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
    name, _, overload = getattr(func, "__name__", "").partition(".")
    return Request(name, args, kwargs, overload)


_NUMBERS = count(1)  # of tensors: no two passes share one
_NOT_RECORDED = {torch.ops.prim.device.default}
_INDEX_LIMIT = 1 << 20  # elements of an index tensor whose values are kept


def source(value: Any) -> SizeSource | None:
    """Which shape or attribute a number came from; None for a literal in the user's code."""
    return value.source if isinstance(value, (Size, Amount)) else None
