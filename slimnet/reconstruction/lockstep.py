"""Several passes in lockstep: all wait at the same calls, so that their tensors can be compared.

Least squares needs, for one layer after the other, the inputs of the slim network's layer and the
outputs of the original's, over all samples. Every pass (a network on a batch) runs in a thread of
its own and waits at each stop. So no layer is run twice, and a tensor is kept only as long as
``forward`` itself keeps it, or a later stop needs it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from slimnet.capture.composites import OPENED, composite, is_composite, opened
from slimnet.capture.graph import Call
from slimnet.capture.modules import evaluation_mode
from slimnet.capture.trace import AtenMode, Trace, fast_paths_off
from slimnet.errors import CaptureError, InputError, SlimnetError
from slimnet.network import Network
from slimnet.text import first_line


@dataclass(frozen=True, eq=False)
class Stop:
    """Where a pass waits: the call, its arguments and result, and the tensors kept for it."""

    call: Call
    args: tuple[Any, ...]
    result: Any  # None where the pass stops before the call
    kept: Mapping[int, Tensor]


class Walk:
    """One network's pass over one batch, which waits at the calls that are asked for."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        trace: Trace,
        stops: Mapping[int, frozenset[int]],
        *,
        after: bool,
        places: Mapping[int, int] | None = None,
    ) -> None:
        """``stops``: index of a call → numbers of the recorded tensors that are kept for it.

        ``after``: wait after these calls rather than before them. ``places``: index of a call in
        the other passes → its index in this one, for a network that runs more calls than they do.
        """
        self.output: Any = None
        self._places = places
        self._images = len(inputs[0])
        self._stop: Stop | None = None
        self._error: BaseException | None = None
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._left = False
        self._mode = _Watched(self, trace, stops, after)
        self._thread = threading.Thread(target=self._run, args=(model, inputs), daemon=True)

    def _advance(self) -> Stop | None:
        """Run on to the next stop; None at the end. Raises InputError where ``forward`` fails."""
        if not self._thread.ident:
            self._thread.start()
        self._stop = None
        self._go.release()
        self._arrived.acquire()
        if isinstance(self._error, Exception) and not isinstance(self._error, SlimnetError):
            raise InputError(self._failure(self._error)) from self._error
        if self._error is not None:
            raise self._error
        return self._stop

    def _failure(self, error: Exception) -> str:
        images = f"a batch of {self._images} of the images"
        return f"the network does not run on {images}: {first_line(error)}"

    def reach(self, index: int) -> Stop:
        """Run on to the stop at a call, past those before it."""
        index = index if self._places is None else self._places[index]
        while (stop := self._advance()) is not None and stop.call.index <= index:
            if stop.call.index == index:
                return stop
        raise CaptureError(
            "the network does not run the same calls on every batch of the samples: it cannot be "
            "followed layer by layer"
        )

    def finish(self) -> None:
        """Run to the end, where it is under way."""
        while self._thread.is_alive() and self._advance() is not None:
            pass

    def leave(self) -> None:
        """End the pass where it stands."""
        if self._thread.is_alive():
            self._left = True
            self._go.release()
            self._thread.join()

    def wait(self, stop: Stop) -> None:
        """Called by the pass itself, at a stop."""
        self._stop = stop
        self._arrived.release()
        self._go.acquire()
        if self._left:
            raise _Left

    def _run(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._go.acquire()
        try:
            if not self._left:
                with torch.no_grad(), self._mode, _Wholes(self._mode):
                    self.output = model(*inputs)
        except _Left:
            pass
        except BaseException as error:
            self._error = error
        self._stop = None
        self._arrived.release()


class _Left(BaseException):
    """Not an Exception: no ``forward`` may take it for a failing call."""


class _Watched(AtenMode):
    """Counts the calls of a pass as the recorded one did, and waits at some."""

    def __init__(
        self, walk: Walk, trace: Trace, stops: Mapping[int, frozenset[int]], after: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._walk, self._stops, self._after = walk, stops, after
        self._seen: Counter[Any] = Counter()
        self._calls = trace.graph.nth
        self._uses = Counter(number for numbers in stops.values() for number in numbers)
        self._kept: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if is_composite(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return self.call(func, func, args, kwargs or {})

    def call(self, op: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call; ``op`` is what the recorded pass calls it."""
        call = self._calls.get((op, self._seen[op]))
        self._seen[op] += 1
        if call is None:
            return func(*args, **kwargs)
        here = call.index in self._stops
        if here and not self._after:
            self._wait(call, args, None)
        result = func(*args, **kwargs)
        self._keep(call, result)
        if here and self._after:
            self._wait(call, args, result)
        return result

    def _wait(self, call: Call, args: tuple[Any, ...], result: Any) -> None:
        with _disable_current_modes():
            numbers = self._stops[call.index]
            self._walk.wait(Stop(call, args, result, {n: self._kept[n] for n in numbers}))
        for number in numbers:
            self._uses[number] -= 1
            if not self._uses[number]:
                del self._kept[number]

    def _keep(self, call: Call, result: Any) -> None:
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        tensors = [out for out in outputs if isinstance(out, Tensor)]
        for ref, tensor in zip(call.outputs, tensors, strict=False):
            if self._uses.get(ref.id):
                self._kept[ref.id] = tensor


class _Wholes(TorchFunctionMode):
    """Sees what is recorded as one call, or opened, as the recorder did."""

    def __init__(self, watched: _Watched) -> None:
        super().__init__()
        self._watched = watched

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        op = composite(func, args)
        if op is not None:
            with _disable_current_modes():
                return self._watched.call(op, func, args, kwargs)
        if func in OPENED:
            with self:
                return opened(func)(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def walking(walks: Sequence[Walk], networks: Sequence[Network]) -> Iterator[None]:
    """Evaluation mode while the passes run; whatever happens, no thread is left behind."""
    with ExitStack() as stack:
        stack.enter_context(fast_paths_off())
        for network in networks:
            stack.enter_context(evaluation_mode(network))
        for walk in walks:
            stack.callback(walk.leave)
        yield


ROOM = 1 << 25
"""Numbers that one tensor may have over all passes that are under way: 128 MB."""


def together(
    trace: Trace, calls: Iterable[int], *walks: Sequence[Walk], least: int = 1
) -> Iterator[tuple[list[Stop], ...]]:
    """Call by call, the stops of the passes in each sequence of ``walks``.

    Where memory has no room for the tensors of all passes, only the first ones run, at least
    ``least`` of them; the others follow, through networks as they are by then, once the tensors
    that are still to come are smaller. Raises :class:`CaptureError` where a pass does not reach a
    call.
    """
    room = _room(trace)
    for index in sorted(calls):
        going = slice(max(room[index], least))
        yield tuple([walk.reach(index) for walk in passes[going]] for passes in walks)
    for walk in (walk for passes in walks for walk in passes):
        walk.finish()


def _room(trace: Trace) -> list[int]:
    """For each call, how many passes there is room for, by the largest tensor from there on."""
    tensors = ((*call.outputs, *call.reads) for call in trace.calls)
    sizes = [max((prod(r.shape) for r in refs if r.name is None), default=0) for refs in tensors]
    largest = list(accumulate(reversed(sizes), max))[::-1]
    return [ROOM // max(size, 1) for size in largest]
