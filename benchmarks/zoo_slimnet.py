"""One network through slimnet, in a process of its own: the row that the table shows.

    python benchmarks/zoo_slimnet.py torchvision resnet18 --repeats 3 --folder /tmp/kept

Memory is the peak of this process's resident set above what it held before: of one forward pass,
and of one ``slimnet.prune`` with its proof. The bar is twice the first plus two copies of the
weights. What a tool imports late is imported before anything is measured, and the allocator hands
freed blocks back at once, so that the resident set is what is in use.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from zoo_networks import SOURCES, arch_of, built, parameters, removed, size_of

import slimnet
from slimnet.errors import SlimnetError
from slimnet.example import tensors_of
from slimnet.networks.arch import Arch

RATIO = 0.5


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    print(json.dumps(measured(options)))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", choices=sorted(SOURCES))
    parser.add_argument("name")
    parser.add_argument("--repeats", type=int, default=1, help="of the cut without proof")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--proof", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folder", type=Path, help="keep slim.pt, its inputs and outputs there")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    warm_up()
    hand_back_from(128 << 10)
    arch = arch_of(options.source, options.name)
    model, example, weights = built(arch)
    facts = {"params": parameters(model), "weights": weights, **forward_facts(model, example)}
    limit = SOURCES[options.source].limit
    facts |= attempted(lambda: proven(model, example, options, facts), limit)
    hand_back_from(32 << 20)
    if facts["outcome"] in ("certified", "cut") and options.repeats:
        facts |= attempted(lambda: timed(model, example, options.repeats), limit)
    return facts


def warm_up() -> None:
    """What only the first call in a process pays: imports, caches, kernels."""
    convolutions = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)
    attention = nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 64, batch_first=True)
    tiny = nn.Sequential(*convolutions, *attention).eval()
    slimnet.prune(tiny, (torch.randn(1, 3, 8, 8),), ratio=RATIO)


def hand_back_from(size: int) -> None:
    """From how many bytes on a freed block goes back to the system at once (glibc's mallopt).

    Left to itself the allocator keeps some tens of megabytes: as much as a small network needs.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_MMAP_THRESHOLD, size)


_MMAP_THRESHOLD = -3


@torch.no_grad()
def forward_facts(model: nn.Module, example: tuple[Any, ...]) -> dict[str, Any]:
    """Time and memory of the network's own pass, and the size of its weights."""
    model(*example)
    seconds, peak, _ = observed(lambda: model(*example))
    held = (*model.parameters(), *model.buffers())
    return {"forward_s": seconds, "forward_bytes": peak, "weight_bytes": size_of(held)}


def proven(
    model: nn.Module, example: tuple[Any, ...], options: argparse.Namespace, row: dict[str, Any]
) -> dict[str, Any]:
    """Cut and prove once, and save what another process has to reproduce."""
    seconds, peak, pruned = observed(
        lambda: slimnet.prune(model, example, ratio=RATIO, align=None, verify=options.proof)
    )
    before, after = pruned.plan.before["macs"], pruned.plan.after["macs"]
    found = {
        "outcome": "certified" if options.proof else "cut",
        "verified_s": seconds,
        "peak_bytes": peak,
        "memory": peak / (2 * row["forward_bytes"] + 2 * row["weight_bytes"]),
        "slimnet_removed": removed(model, pruned.model),
        "slimnet_macs_removed": 1 - after / max(before, 1),
    }
    if pruned.certificate is not None:
        found |= {
            "proof_error": pruned.certificate.error,
            "proof_tolerance": pruned.certificate.tolerance,
            "exact": pruned.certificate.exact,
            "approximate_groups": len(pruned.certificate.approximate),
        }
    if options.folder is not None:
        keep(pruned, example, options.folder, arch_of(options.source, options.name))
    return found


@torch.no_grad()
def keep(pruned: slimnet.Pruned, example: tuple[Any, ...], folder: Path, arch: Arch) -> None:
    """The slim network, inputs that the file does not hold, and what it makes of them."""
    slimnet.save(pruned, folder / "slim.pt", arch)
    outputs = tensors_of(pruned.model(*example))
    torch.save({"inputs": example, "outputs": outputs}, folder / "expected.pt")


def timed(model: nn.Module, example: tuple[Any, ...], repeats: int) -> dict[str, Any]:
    """The cut again, without proof."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        slimnet.prune(model, example, ratio=RATIO, align=None, verify=False)
        times.append(time.perf_counter() - start)
    return {"times_s": times, "slimnet_s": statistics.median(times)}


def attempted(run: Callable[[], dict[str, Any]], limit: int) -> dict[str, Any]:
    """What came of it: a row's facts, or how it ended and why."""
    try:
        with alarm(limit):
            return run()
    except Late:
        return {"outcome": "hung", "reason": f"no result within {limit} s"}
    except SlimnetError as error:
        return {"outcome": "refused", "reason": told(error)}
    except Exception as error:
        return {"outcome": "crashed", "reason": told(error)}


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


class Late(BaseException):
    """Not an Exception: nothing between here and the tool may take it for a failing network."""


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def observed(run: Callable[[], Any]) -> tuple[float, int, Any]:
    """Seconds, peak of the resident set in bytes above what was held before, and the result."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that the allocator still holds
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    before, start = _status("VmRSS"), time.perf_counter()
    result = run()
    return time.perf_counter() - start, _status("VmHWM") - before, result


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
