"""What counts as zero or small is counted, of what there is."""

import torch
from torch import nn

from slimnet.network import Network
from slimnet.sparsity.sparseness import Share, Sparseness, sparseness


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.stem(x)
        return x + self.norm(self.inner(x))


def test_every_kind_is_counted():
    torch.manual_seed(0)
    model, example = Block(), (torch.zeros(1, 1, 8, 8),)
    weights = 8 * 9 + 64 * 9
    before = Sparseness(Share(0, 8), Share(0, 16), Share(0, 1), Share(0, weights))
    assert sparseness(Network.of(model), example) == before
    with torch.no_grad():
        model.norm.weight[:] = torch.tensor([0, 9e-4, -9e-4, 1.1e-3, 1, 1, -1, -2])
        model.inner.weight[:3] = 0
        model.stem.weight[0, 0, 0] = 0
    after = Sparseness(Share(3, 8), Share(3, 16), Share(0, 1), Share(3 * 72 + 3, weights))
    assert sparseness(Network.of(model), example) == after
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.zero_()
    assert sparseness(Network.of(model), example).blocks == Share(1, 1)


def test_a_share_of_nothing_is_a_dash():
    found = sparseness(Network.of(nn.Linear(4, 2)), (torch.zeros(1, 4),))
    assert str(found.scales) == str(found.filters) == str(found.blocks) == "–"
    assert str(Share(1, 8)) == "12.5%"
    assert found.to_json()["weights"] == {"some": 0, "all": 8}
