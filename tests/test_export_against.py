import torch

from slimnet.export import export_onnx
from slimnet.export.against import measure_against
from slimnet.models import MODELS


def test_the_slim_file_is_timed_beside_the_dense_network_or_alone(tmp_path):
    dense = MODELS["digits_vgg"].make().eval()
    example = (torch.zeros(1, *MODELS["digits_vgg"].input_shape),)
    export_onnx(dense, example, tmp_path / "slim.onnx", verify=False)
    timed = measure_against(tmp_path / "slim.onnx", dense, example, batch=2, threads=1)
    assert [timing.name for timing in timed.timings] == ["dense", "slim"]
    assert timed.batch == 2
    alone = measure_against(tmp_path / "slim.onnx", None, example, batch=1, threads=1)
    assert alone.speedups == ()
