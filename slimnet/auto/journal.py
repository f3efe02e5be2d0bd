"""The journal of a folder: which steps are done, what they found, and what was settled on the way.

One file, ``auto.json`` or ``frontier.json``, written whole after every step. It knows what it is
of; a folder that holds another run is refused, not mixed up with this one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from slimnet.digest import sealed_json, unsealed
from slimnet.errors import InputError
from slimnet.limits import from_json
from slimnet.output import write_json

JOURNALS = AUTO, FRONTIER = "auto.json", "frontier.json"


@dataclass(frozen=True)
class Done:
    """One step that ended."""

    sentence: str  # what it found or made, in words
    seconds: float = 0.0
    files: tuple[str, ...] = ()  # in the folder; the first is the step's own
    command: str = ""  # that repeats it
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the network that it made
    record: Mapping[str, Any] = field(default_factory=dict)  # as JSON holds it

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Done:
        """Read what :func:`dataclasses.asdict` gave."""
        return cls(**{**fields, "files": tuple(fields["files"])})


class Journal:
    """The file, and what it holds; raises :class:`InputError` for another run's folder."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], file: str = AUTO) -> None:
        self.path = folder / file
        self.folder = folder
        self.identity = dict(identity)
        self.steps: dict[str, Done] = {}
        self.settled: dict[str, Any] = {}
        for other in JOURNALS:
            if other != file and (folder / other).exists():
                raise InputError(
                    f"{folder} holds another run ({other}): name another folder, or remove that one"
                )
        if self.path.exists():
            self._read()

    def done(self, name: str) -> Done | None:
        """What a step left, if it ended and all of its files are still there."""
        step = self.steps.get(name)
        if step is None or not all((self.folder / file).exists() for file in step.files):
            return None
        return step

    def forget(self, names: Iterable[str]) -> None:
        """Steps that are to be taken anew, since one before them is."""
        gone = [name for name in names if self.steps.pop(name, None) is not None]
        if gone:
            self._write()

    def take(self, name: str, run: Callable[[], Done]) -> Done:
        """Run a step and write it down."""
        started = time.perf_counter()
        done = run()
        done = replace(done, seconds=time.perf_counter() - started)
        self.steps[name] = Done.from_json(json.loads(json.dumps(asdict(done))))
        self._write()
        return self.steps[name]

    def settle(self, name: str, find: Callable[[], Any]) -> Any:
        """What was decided by a measurement: once, whatever is measured after a stop."""
        if name not in self.settled:
            self.settled[name] = find()
            self._write()
        return self.settled[name]

    @property
    def seconds(self) -> float:
        """Of all steps that ended; what a kill took is not counted."""
        return sum(step.seconds for step in self.steps.values())

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        steps = {name: asdict(step) for name, step in self.steps.items()}
        return {"identity": self.identity, "settled": self.settled, "steps": steps}

    def _write(self) -> None:
        write_json(self.path, sealed_json(self.to_json()))

    def _read(self) -> None:
        try:
            content = unsealed(from_json(self.path.read_text(encoding="utf-8"), str(self.path)))
            steps = {name: Done.from_json(step) for name, step in content["steps"].items()}
            identity, settled = dict(content["identity"]), dict(content["settled"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path} cannot be read ({error}): remove it, or name another folder"
            ) from error
        other = [name for name in self.identity if identity.get(name) != self.identity[name]]
        if other:
            raise InputError(
                f"{self.folder} holds another run (its {', '.join(other)} differ): name another "
                "folder, or remove that one"
            )
        self.steps, self.settled = steps, settled
