import json

from slimnet.demo import run_demo
from slimnet.train import Schedule


def cells_in(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}


def told(network):
    return json.dumps(network.results.to_json())


FILES = {"report.html", "results.json", "slim.pt", "dense.onnx", "slim.onnx"}


def test_the_demo_makes_every_file_and_goes_on_from_them(tmp_path):
    schedule = Schedule(epochs=1, lr=0.05, batch=256)
    first = run_demo(tmp_path, seeds=1, threads=1, schedule=schedule)
    assert {path.name for path in tmp_path.iterdir()} >= FILES
    names = [network.name for network in first.networks]
    assert names == ["digits_vgg", "digits_resnet"]
    assert "batch 64" in first.conditions
    before = {name: cells_in(tmp_path / name) for name in names}
    kept = next((tmp_path / "digits_vgg").glob("dense-*.pt"))
    again = run_demo(tmp_path, seeds=1, threads=1, schedule=schedule)
    assert {name: cells_in(tmp_path / name) for name in names} == before
    assert list(map(told, again.networks)) == list(map(told, first.networks))
    kept.write_bytes(b"damaged")
    run_demo(tmp_path, seeds=1, threads=1, schedule=schedule)
    assert {name: cells_in(tmp_path / name) for name in names} == before
