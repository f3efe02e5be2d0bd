"""Cut to a time: predict, cut, export, measure, correct.

The model of :mod:`.model` says which widths come to the target. What is cut so is written as ONNX
and timed beside the network as it was, and by what it is off the aim is moved. Of all that keeps to
the target the slowest, which has lost least, is cut once more, with its proof and its repair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from slimnet.errors import PruneError
from slimnet.export.latency import measure_latency
from slimnet.export.onnx_file import export_onnx
from slimnet.planning.request import COMPETING, TimeTarget
from slimnet.pruning import PruneArguments, Pruned, cut_down, opened
from slimnet.timing.cache import cache_folder
from slimnet.timing.measured import Subject
from slimnet.timing.table import TimeTable, setting_of

ROUNDS = 5
"""Cuts that are measured at most."""
NEAR = 0.03
"""A time below the target by no more than this part of it is good enough."""

FAR = 0.05
"""Where the first cut is off by more, blocks compete once more, by what was learnt of time."""


@dataclass(frozen=True)
class Shot:
    """One cut that was measured: what the model was asked for and said, and what came out."""

    aim: float  # ms that the model was asked for
    predicted: float  # ms
    ms: float  # as it runs
    blocks: tuple[str, ...]  # that left


class Aiming:
    """The search for the aim at which a cut takes the time that is wanted."""

    def __init__(self, model: nn.Module | Pruned, asked: PruneArguments, folder: Path) -> None:
        # criterion and scope are those of the last cut, which may be repaired, also before
        self.model, self.asked, self.folder = model, asked.settled(), folder
        self.network, self.example = opened(model, asked.example)
        self.setting = setting_of(asked.batch)
        self.table = TimeTable(self.setting, cache_folder())
        self.dense = folder / "dense.onnx"

    def pruned(self) -> Pruned:
        """The cut that meets the target; raises :class:`PruneError` where none does."""
        asked, watch = self.asked, self.asked.watch
        watch("measuring the network as it is", 0.0)
        export_onnx(
            self.network.model, self.example, self.dense, outputs=asked.outputs, verify=False
        )
        target = TimeTarget.of(asked.latency or 0)
        whole = self._measured({"dense": self.dense})["dense"]
        allowed = target.ms(whole)
        with Subject(self.network, self.example, self.dense, self.table).lent(whole, watch):
            shots = list(self._shots(allowed, whole))
            fits = [shot for shot in shots if shot.ms <= allowed]
            if not fits and not asked.best_effort:
                raise PruneError(self._refusal(target, whole, shots))
            best = max(fits, key=lambda shot: shot.ms) if fits else min(shots, key=lambda s: s.ms)
            made = cut_down(self.model, self._request(best.aim, best.blocks))
            if _predicted(made) != best.predicted:  # the proof has held some channels back
                best = replace(best, ms=self._slim_ms(made, whole))
        return self._told(made, target, whole, best, shots)

    def _request(self, aim: float, blocks: Any, **more: Any) -> PruneArguments:
        """A cut to what the model calls so many milliseconds."""
        align = self.table.block if self.asked.align == "auto" else self.asked.align
        return replace(
            self.asked,
            latency=None,
            budget={"latency": aim},
            drop_blocks=blocks,
            align=align,
            whole_blocks=self.asked.align == "auto",
            example=self.example,
            **more,
        )

    def _shots(self, allowed: float, whole: float) -> Iterator[Shot]:
        """Cuts, each aimed by what the one before was off."""
        aim, blocks = allowed, self._blocks()
        off: list[float] = []  # what was measured over what was predicted
        for number in range(ROUNDS):
            self.asked.watch("cutting and measuring", number / ROUNDS)
            request = self._request(aim, blocks, verify=False, repair=False, best_effort=True)
            made = cut_down(self.model, request)
            left = tuple(block.name for block in made.plan.blocks)
            ms, predicted = self._slim_ms(made, whole), _predicted(made)
            yield Shot(aim, predicted, ms, left)
            if number or abs(ms / allowed - 1) <= FAR:
                blocks = left
            if (1 - NEAR) * allowed <= ms <= allowed or aim >= whole:
                return
            off.append(ms / predicted)  # of several readings the middle one: each has its noise
            aim = min((1 - NEAR / 2) * allowed / median(off[-3:]), whole)

    def _blocks(self) -> Any:
        """Blocks compete where there are images to judge by and nothing was said."""
        asked = self.asked
        return asked.drop_blocks or (COMPETING if asked.data is not None else ())

    def _slim_ms(self, made: Pruned, whole: float) -> float:
        """Of a cut, beside the network as it was."""
        file = self.folder / "slim.onnx"
        export_onnx(made.model, self.example, file, outputs=self.asked.outputs, verify=False)
        return self._measured({"dense": self.dense, "slim": file}, whole)["slim"]

    def _measured(self, files: dict[str, Path], whole: float | None = None) -> dict[str, float]:
        """Milliseconds; beside the network as it was, what it took before is the measure."""
        how: dict[str, Any] = {"batch": self.setting.batch, "threads": self.setting.threads}
        latency = measure_latency(files, self.example, **how)
        times = {timing.name: timing.median_ms for timing in latency.timings}
        if whole is not None:
            times["slim"] = whole / latency.speedup.median
        return times

    def _told(
        self, made: Pruned, target: TimeTarget, whole: float, best: Shot, shots: list[Shot]
    ) -> Pruned:
        """With the times that were measured, and what was asked for."""
        plan = made.plan
        before = {**(plan.before or {}), "latency": whole}
        after = {**(plan.after or {}), "latency": best.ms}
        rest = {k: v for k, v in (plan.asked or {}).items() if k != "latency"}
        asked = {"latency": target.ms(whole), "wanted": str(target), **rest}
        tried = "; ".join(f"{s.predicted:.3g} predicted, {s.ms:.3g} measured" for s in shots)
        note = f"time: ms of each cut that was tried: {tried} ({self.setting})"
        plan = plan.reporting(before=before, after=after, asked=asked, notes=(*plan.notes, note))
        return replace(made, plan=plan)

    def _refusal(self, target: TimeTarget, whole: float, shots: list[Shot]) -> str:
        least = min(shot.ms for shot in shots)
        return (
            f"{target} ({target.ms(whole):.3g} ms) cannot be had here: the least of "
            f"{len(shots)} cuts that were measured is {least:.3g} ms, the network as it is "
            f"takes {whole:.3g} ms ({self.setting}); ask for that, loosen what holds it, or take "
            "it with --best-effort (best_effort=True)"
        )


def _predicted(made: Pruned) -> float:
    """Milliseconds, by the model."""
    return float((made.plan.after or {})["latency"])
