"""onnxruntime's converters leave Python's path, and the terminal, as they were."""

import importlib
import sys

from slimnet.export.runtime_tools import runtime_tools


def test_the_path_is_as_it_was_and_nothing_is_said(capsys):
    before = list(sys.path)
    for name in ("onnxruntime.transformers.float16", "onnxruntime.quantization", "fusion_utils"):
        with runtime_tools():
            importlib.import_module(name)
            print("they print")
        assert sys.path == before
    assert capsys.readouterr() == ("", "")
