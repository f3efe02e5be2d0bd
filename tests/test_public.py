"""What `import slimnet` gives, and when."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import slimnet
from slimnet import public

NAMES = (
    "CaptureError Certificate CertificateError InputError Inspection LoaderTask Measured Metric "
    "Plan PruneError Pruned Recipe Samples Schedule Sensitivity SlimnetError Task UnknownNameError "
    "__version__ apply cost cut_optimizer export_onnx export_pt2 inspect load measure_latency "
    "prune repair retrain rule save sensitivity verify"
)


def said(program):
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_the_public_names():
    assert " ".join(public.__all__) == NAMES
    assert set(public.__all__) <= set(dir(slimnet))
    assert all(getattr(slimnet, name) is getattr(public, name) for name in public.__all__)
    with pytest.raises(AttributeError, match="module 'slimnet' has no attribute 'nothing'"):
        _ = slimnet.nothing


def test_every_name_can_be_imported_at_once():
    names = {}
    exec("from slimnet import *", names)
    assert names.keys() >= set(public.__all__)


def test_torch_comes_with_the_first_name():
    program = """
import sys, slimnet
print("torch" in sys.modules, slimnet.__version__)
slimnet.prune
print("torch" in sys.modules, "onnxruntime" in sys.modules)
"""
    assert said(program) == ["False", slimnet.__version__, "True", "False"]


def test_no_module_has_the_name_of_what_is_public():
    modules = {path.stem for path in Path(slimnet.__file__).parent.iterdir()}
    assert len(modules) > 20
    assert modules & set(public.__all__) == set()


def test_modules_are_there_without_being_imported_by_name():
    assert said("import slimnet; print(len(slimnet.criteria.load_criteria()) > 9)") == ["True"]
    assert said("from slimnet import errors; import sys; print('torch' in sys.modules)") == [
        "False"
    ]
