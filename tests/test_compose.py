import torch

from slimnet import prune
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.plan.compose import compose
from slimnet.plan.rebuild import rebuild


def test_two_cuts_composed_equal_one_after_the_other():
    torch.manual_seed(0)
    dense = MODELS["digits_resnet"].make().eval()
    example = (torch.randn(1, *MODELS["digits_resnet"].input_shape),)
    first = prune(dense, example, ratio=0.3, align=None)
    second = prune(first.model, example, ratio=0.3, align=None, criterion="random")
    at_once = rebuild(Network.of(dense), compose(first.plan, second.plan, Network.of(dense).shapes))
    expected = Network.of(second.model).tensors
    found = Network.of(at_once).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_cost_runs_from_the_dense_network_to_the_last():
    dense = MODELS["digits_vgg"].make().eval()
    example = (torch.randn(1, *MODELS["digits_vgg"].input_shape),)
    first = prune(dense, example, ratio=0.25, verify=False)
    second = prune(first.model, example, ratio=0.25, verify=False)
    both = compose(first.plan, second.plan, Network.of(dense).shapes)
    assert both.before == first.plan.before
    assert both.after == second.plan.after
    assert "pruned in more than one step" in both.notes
