"""What happens inside a fork: the world is settled, file operations are counted, commands run.

``load FILE`` stands beside slimnet's own commands: it opens a file as they do, runs the network on
one fixed input, and prints a digest of all its numbers.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from faultlab.fault import DECOY, Stop, World

TEMPORARY, HOME = ".tmp", ".home"
"""Where temporary files and the user's own belong, in the folder of the fault."""


def settle(folder: Path, world: World, pipes: Sequence[int], fuse: int) -> None:
    """Make this process what the world says."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    for name in (TEMPORARY, HOME):
        (folder / name).mkdir(exist_ok=True)
    os.environ.update(TMPDIR=str(folder / TEMPORARY), HOME=str(folder / HOME), TERM="dumb")
    for name, value in world.environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.umask(world.umask)
    faulthandler.disable()  # its words are pytest's
    _streams(world, pipes)
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    if "torch" in sys.modules:  # a fork has none of its parent's threads
        sys.modules["torch"].set_num_threads(1)
    _limit(resource.RLIMIT_AS, fuse)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, world.largest_file)
    _limit(resource.RLIMIT_NOFILE, world.open_files)
    if world.gone:
        shutil.rmtree(folder)


def _streams(world: World, pipes: Sequence[int]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(pipes[0], 1)
    os.dup2(pipes[1], 2)
    if world.stdout == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    sys.stdout = _stream(1, closed=world.stdout == "closed", errors="strict")
    sys.stderr = _stream(2, closed=world.stderr == "closed", errors="backslashreplace")


def _stream(number: int, *, closed: bool, errors: str) -> Any:
    """As a Python of its own would have it; ``None`` for a stream that is closed."""
    if closed:
        os.close(number)
        return None
    return open(number, "w", encoding="utf-8", errors=errors, closefd=False)


def _limit(kind: int, value: int | None) -> None:
    if value is not None:
        resource.setrlimit(kind, (value, value))


def listen(channel: int, stop: Stop | None, stop_at: float | None) -> None:
    """Note operations on files and attempts to reach the network; stop at one of the former."""
    global _channel
    _channel = channel
    counted = 0
    last = stop_at if stop is not None and stop.measure == "operations" else None

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal counted
        if event in _REACHING:
            os.write(channel, f"reached {event} {arguments!r:.200}\n".encode(errors="replace"))
        elif event == "open" and str(arguments[0]).endswith(DECOY):
            os.write(channel, f"reached {DECOY}\n".encode())
        elif _operates(event, arguments):
            os.write(channel, b"operation\n")
            counted += 1
            if last is not None and stop is not None and counted == max(1, round(last)):
                os.kill(os.getpid(), stop.signal)

    sys.addaudithook(hear)


_channel = -1


def telling_modules(work: Callable[[], int]) -> Callable[[], int]:
    """Note which modules the work has imported."""

    def told() -> int:
        before = set(sys.modules)
        code = work()
        for name in sys.modules.keys() - before:
            if name.partition(".")[0] in _LIBRARIES:
                os.write(_channel, f"module {name}\n".encode())
        return code

    return told


_LIBRARIES = {
    *("slimnet", "torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "sympy"),
    *("onnx", "onnxscript", "onnxruntime", "onnx_ir", "jinja2", "rich", "PIL"),
}
_REACHING = {
    *("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"),
    *("os.system", "os.exec", "os.posix_spawn"),
}
_OPERATIONS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link"}


def _operates(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a file or folder is about to be made, written or removed."""
    if event != "open":
        return event in _OPERATIONS
    _, mode, flags = arguments
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    return bool(set(str(mode or "")) & set("wxa+")) or bool(int(flags or 0) & writes)


def slimnet_command(arguments: Sequence[str]) -> Callable[[], int]:
    """A command as ``python -m slimnet`` runs it."""
    return lambda: _exit_code(lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ("load",):
        _refusing(lambda: print(json.dumps(load(*arguments[1:]))))
        return
    from slimnet.cli import main

    sys.argv = ["slimnet", *arguments]
    main(arguments)


def _exit_code(work: Callable[[], None]) -> int:
    """As Python ends: with the code of ``sys.exit``, or a traceback and 1."""
    try:
        work()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _refusing(work: Callable[[], None]) -> None:
    from slimnet.errors import SlimnetError

    try:
        work()
    except SlimnetError as error:
        text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
        sys.stderr.write(f"slimnet: {text}\n")
        sys.exit(2)


def load(name: str, *arch: str) -> dict[str, Any]:
    """What a file holds, as a digest, and whether a network's outputs are finite.

    Raises what slimnet raises, and ``ValueError`` for a file that is not whole.
    """
    path = Path(name)
    if (path / "results.json").is_file():
        return _study(path)
    return _READERS.get(path.suffix, _network)(path, *arch)


def _study(folder: Path) -> dict[str, Any]:
    """Accuracies and costs; seconds differ from run to run."""
    return _results(folder / "results.json")


def _results(path: Path) -> dict[str, Any]:
    from slimnet.study import Results

    told = []
    for name, fields in json.loads(path.read_text()).items():
        facts = Results.from_json(fields).to_json()
        unlike = dict.fromkeys(("seconds", "memory", "energy", "latency"))
        records = [{**record, **unlike} for record in facts["records"]]
        told.append([name, records, facts["data"]])
    return _digested(json.dumps(told, sort_keys=True))


def _json(path: Path) -> dict[str, Any]:
    if path.name == "results.json":
        return _results(path)
    json.loads(path.read_text())
    return _digested("")  # times differ from run to run


def _html(path: Path) -> dict[str, Any]:
    text = path.read_text()
    if not text.rstrip().endswith(("</html>", "</svg>")):
        raise ValueError(f"{path} ends with {text[-30:]!r}")
    return _digested("")


def _data(path: Path) -> dict[str, Any]:
    from slimnet.tasks.data import load_data

    return _digested(load_data(f"npz:{path}").fingerprint())


def _onnx(path: Path) -> dict[str, Any]:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: np.ones((1, 1, 8, 8), np.float32)})
    return _digested(*(x.tobytes() for x in outputs), finite=bool(np.isfinite(outputs[0]).all()))


def _training(path: Path) -> dict[str, Any]:
    from slimnet.networks.payload import load_payload

    load_payload(path)
    return _digested("")


def _network(path: Path, *arch: str) -> dict[str, Any]:
    """Weights, outputs, and what a slim network's file says of itself."""
    import torch

    from slimnet.errors import InputError
    from slimnet.example import tensors_of
    from slimnet.files.access import open_network
    from slimnet.network import Network
    from slimnet.networks.arch import parse_arch

    opened = open_network(path, parse_arch(arch[0]) if arch else None)
    model, parts = opened.model.eval(), list[Any]()
    for name, tensor in Network.of(model).tensors.items():
        parts += [name, str(tensor.dtype), str(tensor.shape), str(tensor.stride())]
        parts.append(_stored(tensor.detach()))
    if opened.artifact is not None:
        proof = opened.artifact.certificate
        told = [opened.artifact.plan.to_json(), proof and proof.to_json(), opened.artifact.trained]
        parts.append(json.dumps(told, sort_keys=True, default=str))
    _spoil_memory()
    try:
        with torch.no_grad():
            outputs = tensors_of(model(torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)))
    except Exception as error:  # who runs a broken network in Python is told by torch
        raise InputError(f"{path} does not run: {type(error).__name__}") from error
    parts += [x.contiguous().numpy().tobytes() for x in outputs]
    return _digested(*parts, finite=all(bool(x.isfinite().all()) for x in outputs))


def _spoil_memory() -> None:
    """NaN wherever memory has been free: what is read before it is written is not finite then."""
    import torch

    for size in (2**n for n in range(4, 16)):
        _ = [torch.full((size,), float("nan")) for _ in range(20)]


def _stored(tensor: Any) -> bytes:
    """What lies in memory: an expanded tensor stays as small as it is."""
    import torch

    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().tobytes()


def _digested(*parts: str | bytes, finite: bool = True) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return {"numbers": digest.hexdigest(), "finite": finite}


_READERS: dict[str, Callable[..., dict[str, Any]]] = {
    ".json": _json,
    ".html": _html,
    ".svg": _html,
    ".npz": _data,
    ".onnx": _onnx,
    ".training": _training,
}
