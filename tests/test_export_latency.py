"""Candidates are timed in turn under one clock, and the words follow the ratios."""

import json
import os
import re
import sys
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

from slimnet.errors import InputError, UnknownNameError
from slimnet.export import BACKENDS, Latency, Runner, Speedup, Timing, export_onnx, measure_latency
from slimnet.export.backends import compiled_torch, open_vino
from slimnet.export.clock import Clock

EXAMPLE = (torch.zeros(1, 3, 6, 6),)


class Scripted:
    """A backend and a clock: every run of a candidate takes the seconds that were written down.

    By the wall; of the CPU it takes ``share`` of that, in the process' own threads or not.
    """

    def __init__(self, seconds, share, on_cpu):
        self.seconds, self.share, self.on_cpu = seconds, share, on_cpu
        self.now, self.computed, self.runs = 0.0, 0.0, []

    @contextmanager
    def backend(self, candidate, inputs, threads):
        run = partial(self.run, candidate)
        yield Runner(run, "scripted", f"{threads} threads", self.on_cpu)

    def run(self, candidate):
        self.runs.append(candidate)
        cost = self.seconds[candidate]
        cost = cost(len(self.runs)) if callable(cost) else cost
        self.now += cost
        self.computed += cost * self.share.get(candidate, 1.0)

    def clock(self):
        return Clock(lambda: self.now, lambda: self.computed)


@pytest.fixture
def measure(monkeypatch):
    def run(seconds, *, share=None, on_cpu=False, **options):
        script = Scripted(seconds, share or {}, on_cpu)
        monkeypatch.setitem(BACKENDS._entries, "scripted", script.backend)
        names = {name: name for name in seconds}
        latency = measure_latency(
            names, EXAMPLE, backend="scripted", clock=script.clock(), **{"threads": 1} | options
        )
        return latency, script

    return run


def test_every_round_runs_every_candidate_and_starts_with_another(measure):
    _, script = measure({"dense": 1.0, "slim": 0.5}, rounds=3, warmup=2)
    warm, rounds = script.runs[:4], script.runs[4:]
    assert warm == ["dense", "dense", "slim", "slim"]
    assert rounds == ["dense", "slim", "slim", "dense", "dense", "slim"]


def test_quick_candidates_run_until_a_reading_is_long_enough(measure):
    _, script = measure({"dense": 1.0, "slim": 0.25}, rounds=1, warmup=1, min_seconds=1.0)
    assert script.runs[2:] == ["dense", "slim", "slim", "slim", "slim"]


def test_times_are_medians_per_run_in_milliseconds(measure):
    latency, _ = measure({"dense": 0.004, "slim": 0.001}, rounds=5, min_seconds=0.01)
    assert latency.timing("dense").median_ms == pytest.approx(4)
    assert latency.timing("slim").median_ms == pytest.approx(1)
    assert latency.speedup.median == pytest.approx(4)


def test_a_machine_that_slows_down_does_not_move_the_ratio(measure):
    def slowing(base):
        return lambda run: base * (1 + run)

    latency, _ = measure({"dense": slowing(0.3), "slim": slowing(0.1)}, rounds=40, warmup=1)
    assert latency.speedup.median == pytest.approx(3, rel=0.02)
    dense = latency.timing("dense")
    assert dense.high_ms > 5 * dense.low_ms


def test_every_other_candidate_is_compared_with_the_first(measure):
    latency, _ = measure({"dense": 0.03, "a": 0.02, "b": 0.01}, rounds=6)
    assert [(s.name, s.baseline) for s in latency.speedups] == [("a", "dense"), ("b", "dense")]
    assert "a runs in" in latency.sentence()
    assert "b runs in" in latency.sentence()


def test_on_one_thread_the_cpu_time_decides(measure):
    share = {"dense": 1.0, "slim": 0.5}  # the slim one waits for half of its time
    latency, _ = measure({"dense": 0.02, "slim": 0.02}, share=share, on_cpu=True, rounds=8)
    assert latency.decides == "CPU" and "median CPU time of 8" in latency.conditions()
    assert latency.speedup.median == pytest.approx(2) and latency.speedup.verdict == "faster"
    slim = latency.timing("slim")
    assert (slim.median_ms, slim.wall_ms, slim.cpu_ms) == pytest.approx((10, 20, 10))
    assert slim.interval_ms == pytest.approx((10, 10))
    assert latency.per_second("slim") == pytest.approx(100)
    assert any("others ran on the same core" in remark for remark in latency.remarks)


@pytest.mark.parametrize("how", [{"threads": 2, "on_cpu": True}, {"threads": 1, "on_cpu": False}])
def test_on_several_threads_or_a_gpu_the_wall_time_decides(measure, how):
    latency, _ = measure({"dense": 0.02, "slim": 0.02}, share={"slim": 0.5}, rounds=8, **how)
    assert latency.decides == "wall" and "median wall time of 8" in latency.conditions()
    assert latency.speedup.verdict == "undecided"
    assert not any("same core" in remark for remark in latency.remarks)


def test_a_difference_within_the_noise_has_no_winner(measure):
    assert measure({"a": 1.0, "b": 0.99}, rounds=8)[0].speedup.verdict == "undecided"
    assert measure({"a": 1.0, "b": 0.9}, rounds=8)[0].speedup.verdict == "faster"
    assert measure({"a": 0.9, "b": 1.0}, rounds=8)[0].speedup.verdict == "slower"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins a thread to cores")
def test_it_keeps_to_as_many_cores_as_threads(measure, monkeypatch):
    before, seen = os.sched_getaffinity(0), []
    monkeypatch.setattr(Scripted, "run", lambda self, name: seen.append(os.sched_getaffinity(0)))
    latency, _ = measure({"dense": 1.0}, rounds=1, warmup=1)
    assert latency.cores == (() if len(before) == 1 else tuple(seen[0]))
    assert {len(cores) for cores in seen} == {1} and os.sched_getaffinity(0) == before


def record(median, low, high, dense_ms=3.61, batch=1):
    timings = (
        Timing("dense", dense_ms, dense_ms, dense_ms),
        Timing("slim", dense_ms / median, dense_ms / median, dense_ms / median),
    )
    speedups = (Speedup("slim", "dense", median, low, high),)
    return Latency(
        timings, speedups, "onnxruntime", "CPU", "a CPU", 1, batch, 30, {"torch": "2.15"}
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            record(1.88, 1.85, 1.93),
            "slim runs in 1.92 ms against 3.61 ms: 1.88x faster (1.85-1.93)",
        ),
        (
            record(0.8, 0.78, 0.85),
            "slim is slower: 4.51 ms against 3.61 ms, 0.80x the speed (0.78-0.85); widths that are "
            "multiples of 16 run best (align=16), and a deeper cut shows more",
        ),
        (
            record(1.1, 0.95, 1.2),
            "slim is not measurably faster: 3.28 ms against 3.61 ms, 1.10x (0.95-1.20); widths "
            "that are multiples of 16 run best (align=16), and a deeper cut shows more",
        ),
        (
            record(1.2, 0.7, 2.0),
            "slim is not measurably faster: 3.01 ms against 3.61 ms, 1.20x (0.70-2.00); the "
            "rounds differ too much to tell: measure again while less else runs",
        ),
        (
            record(1.0, 1.0, 1.1, dense_ms=0.05),
            "slim is not measurably faster: 0.0500 ms against 0.0500 ms, 1.00x (1.00-1.10); the "
            "network is so small that the calls themselves cost most of it: try a larger batch",
        ),
    ],
)
def test_the_sentence_says_whether_it_is_faster(found, words):
    assert found.sentence() == words


def test_one_candidate_has_a_time_and_no_speed_up(measure):
    latency, _ = measure({"slim": 0.012}, rounds=3)
    assert latency.sentence() == "slim runs in 12.0 ms"
    with pytest.raises(InputError, match="measure two"):
        _ = latency.speedup


def toy(width):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    for name, width in {"dense": 32, "slim": 8}.items():
        export_onnx(toy(width), EXAMPLE, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in ("dense", "slim")}


def test_the_record_states_how_it_was_measured(files):
    latency = measure_latency(files, EXAMPLE, batch=2, threads=1, rounds=4, warmup=1)
    plain = json.loads(json.dumps(latency.to_json()))
    assert (plain["threads"], plain["batch"], plain["rounds"]) == (1, 2, 4)
    assert plain["provider"].endswith("ExecutionProvider")
    assert set(plain["versions"]) == {"onnxruntime", "onnx", "torch"}
    assert plain["device"]
    assert [timing["name"] for timing in plain["timings"]] == ["dense", "slim"]
    assert all(0 < t["low_ms"] <= t["median_ms"] <= t["high_ms"] for t in plain["timings"])
    assert plain["sentence"] == latency.sentence()
    assert "batch 2, 1 thread, " in plain["conditions"]
    assert plain["decides"] == ("wall" if sys.platform == "win32" else "CPU")
    assert all(timing["wall_ms"] > 0 and timing["cpu_ms"] > 0 for timing in plain["timings"])


# Every backend needs a candidate here: a row without one fails the test below.
CANDIDATES = {
    "onnxruntime": lambda files: files["slim"],
    "openvino": lambda files: files["slim"],
    "tensorrt": lambda files: files["slim"],
    "torch": lambda files: toy(8),
    "torch-compile": lambda files: toy(8),
}
ELSEWHERE = r"OpenVINO is not installed: pip install|this onnxruntime has no TensorRT: pip install"


def test_every_backend_has_a_candidate():
    assert set(CANDIDATES) == set(BACKENDS)


@pytest.mark.parametrize("backend", sorted(CANDIDATES))
def test_every_backend_runs_its_candidate(files, backend, monkeypatch):
    monkeypatch.setattr(compiled_torch, "COMPILER", "eager")  # which takes no minute
    candidate = CANDIDATES[backend](files)
    threads = torch.get_num_threads()
    try:
        found = measure_latency(
            {"slim": candidate}, EXAMPLE, rounds=2, warmup=1, threads=1, backend=backend
        )
    except InputError as error:
        assert re.match(ELSEWHERE, str(error)), error
        pytest.skip(str(error))
    assert found.timing("slim").median_ms > 0
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("backend", sorted(set(CANDIDATES) - {"tensorrt"}))
def test_every_backend_refuses_what_it_cannot_time(files, backend, monkeypatch):
    monkeypatch.setattr(open_vino, "_openvino", lambda: None)
    wrong = toy(8) if CANDIDATES[backend](files) == files["slim"] else files["slim"]
    with pytest.raises(InputError, match=r"backends? times? (ONNX files|modules), and w.* given"):
        measure_latency({"slim": wrong}, EXAMPLE, backend=backend)


def test_without_openvino_the_way_to_it_is_said(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'slimnet\[openvino\]'"):
        measure_latency(files, EXAMPLE, backend="openvino")


def test_openvino_says_what_it_cannot_run(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"a\.onnx: OpenVINO cannot run it: \S"):
        measure_latency({"a": tmp_path / "a.onnx"}, EXAMPLE, backend="openvino")


def test_without_a_compiler_the_way_to_one_is_said(monkeypatch):
    monkeypatch.setattr(compiled_torch, "COMPILER", "no such compiler")
    with pytest.raises(InputError, match=r"cannot compile it here \(.*it needs a C\+\+ compiler"):
        measure_latency({"a": toy(4)}, EXAMPLE, backend="torch-compile")


def test_the_torch_backend_puts_the_training_mode_back():
    model = toy(4).train()
    measure_latency({"a": model}, EXAMPLE, rounds=1, warmup=1, backend="torch")
    assert model.training


def test_a_static_file_names_the_batch_that_it_takes(tmp_path):
    path = tmp_path / "static.onnx"
    export_onnx(toy(4), EXAMPLE, path, dynamic_batch=False)
    with pytest.raises(InputError, match=r"static\.onnx takes batch 1 only .* set batch=1"):
        measure_latency({"static": path}, EXAMPLE, batch=2)


def test_bad_requests_are_refused(files, tmp_path):
    with pytest.raises(InputError, match="nothing to measure"):
        measure_latency({}, EXAMPLE)
    with pytest.raises(InputError, match="rounds is 0"):
        measure_latency(files, EXAMPLE, rounds=0)
    with pytest.raises(InputError, match="there is no such file"):
        measure_latency({"dense": tmp_path / "none.onnx"}, EXAMPLE)
    with pytest.raises(UnknownNameError, match="known ones are onnxruntime, openvino, tens"):
        measure_latency(files, EXAMPLE, backend="abacus")
    with pytest.raises(InputError, match="torch backends time modules"):
        measure_latency(files, EXAMPLE, backend="torch")
    with pytest.raises(InputError, match="dense does not run on these inputs"):
        measure_latency(files, (torch.zeros(1, 5, 6, 6),))
