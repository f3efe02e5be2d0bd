"""What stands for a module that left hands its input on, or gives zeros."""

import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.plan.shortcut import PASSED, RELU, ZERO, ZEROS, Stub, replace_modules


def network():
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


def test_the_first_tensor_is_handed_on_through_the_steps():
    model, x = network(), torch.randn(2, 3, 4, 4)
    expected = model[1][0](model[0](x)).relu()
    replace_modules(Network.of(model), [Stub("1", PASSED, ("0", RELU))])
    assert torch.equal(model(x), expected)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]


@pytest.mark.parametrize(("by", "shape"), [(ZEROS, (2, 3, 4, 4)), (ZERO, (1, 1, 1, 1))])
def test_zeros_add_nothing(by, shape):
    model, x = network(), torch.randn(2, 3, 4, 4)
    replace_modules(Network.of(model), [Stub("1", by)])
    assert torch.equal(model(x), torch.zeros(shape))
    assert torch.equal(model[1](mask=None, input=x) + x, x)


def test_a_module_that_returned_a_pair_still_does():
    model = nn.Sequential(nn.MultiheadAttention(4, 2))
    replace_modules(Network.of(model), [Stub("0", ZERO, paired=True)])
    zero, weights = model[0](*[torch.randn(2, 3, 4)] * 3, need_weights=False)
    assert weights is None and zero.shape == (1, 1, 1) and not zero.any()
    assert model[0].num_heads == 2 and model[0].in_proj_weight is None


def test_every_name_of_a_module_is_replaced():
    model = network()
    model.add_module("again", model[0])
    replace_modules(Network.of(model), [Stub("0", PASSED)])
    assert model[0] is model.again and not list(model[0].parameters())


def test_what_lies_inside_a_replaced_module_is_skipped_unless_it_stays():
    model = network()
    replace_modules(
        Network.of(model), [Stub("1", PASSED, ("0",)), Stub("1.1", PASSED), Stub("1.0", PASSED)]
    )
    assert not list(model[1].parameters())


def test_what_is_not_there_is_refused():
    with pytest.raises(InputError, match="drops 7, which this network does not have"):
        replace_modules(Network.of(network()), [Stub("7", PASSED)])
    with pytest.raises(InputError, match=r"keeps 1\.9, which is not there"):
        replace_modules(Network.of(network()), [Stub("1", PASSED, ("9",))])
    with pytest.raises(ValueError, match="'code'"):
        Stub.from_json({"module": "1", "by": "code", "steps": [], "paired": False})


def test_which_tensors_leave():
    stub = Stub("layer1.0", PASSED, ("downsample",))
    assert stub.drops("layer1.0.conv1.weight") and stub.drops("layer1.0.")
    assert not stub.drops("layer1.0.downsample.0.weight") and not stub.drops("layer1.01.weight")
