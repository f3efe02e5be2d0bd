import inspect

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from slimnet.models import MODELS
from slimnet.models.resnet import PaddedShortcut

# In millions, from the papers (ResNet-164's and VGG's with batch norm and one linear layer).
PARAMETERS = {
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet44": 0.66,
    "resnet56": 0.85,
    "resnet110": 1.7,
    "resnet1202": 19.4,
    "preresnet164": 1.7,
    "densenet40": 1.1,
    "vgg16": 14.7,
    "vgg19": 20.0,
}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"resnet1202"}))
def test_scores_have_one_column_per_class(name):
    row = MODELS[name]
    channels, *size = row.input_shape
    model = row.make(num_classes=7, in_channels=channels + 1).eval()
    scores = model(torch.rand(2, channels + 1, *size))
    assert scores.shape == (2, 7)
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_default_channels_are_those_of_the_usual_input(name):
    row = MODELS[name]
    assert inspect.signature(row.make).parameters["in_channels"].default == row.input_shape[0]


@pytest.mark.parametrize(("name", "millions"), PARAMETERS.items())
def test_sizes_are_the_published_ones(name, millions):
    count = sum(p.numel() for p in MODELS[name].make().parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9)])
def test_resnet_names_and_shapes_are_those_of_the_published_weights(name, blocks):
    expected = {"conv1.weight": (16, 3, 3, 3), **norm("bn1", 16)}
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            first = width // 2 if block == 0 and stage > 1 else width
            expected[f"{at}.conv1.weight"] = (width, first, 3, 3)
            expected[f"{at}.conv2.weight"] = (width, width, 3, 3)
            expected |= norm(f"{at}.bn1", width) | norm(f"{at}.bn2", width)
    expected |= {"linear.weight": (10, 64), "linear.bias": (10,)}
    state = MODELS[name].make().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


def norm(name, width):
    return {f"{name}.{key}": () if key == NORM[-1] else (width,) for key in NORM}


def test_padded_shortcut_puts_a_quarter_of_the_new_width_on_each_side():
    x = torch.rand(2, 16, 6, 6)
    out = PaddedShortcut(16, 32, 2)(x)
    assert out.shape == (2, 32, 3, 3)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_densenet_layers_add_twelve_channels_each():
    model = MODELS["densenet40"].make()
    added = [layer.conv.out_channels for layer in model.modules() if hasattr(layer, "conv")]
    assert added.count(12) == 36
    assert model.linear.in_features == 24 + 36 * 12


@pytest.mark.parametrize(
    ("name", "scale"), [("vgg16", 0.5), ("preresnet164", 0.5), ("resnet20", 1)]
)
def test_batch_norm_scales_start_where_the_protocol_says(name, scale):
    norms = [m for m in MODELS[name].make().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(bool((norm.weight == scale).all()) for norm in norms)


@pytest.mark.parametrize("name", ["digits_vgg", "digits_resnet"])
def test_digits_are_learnt_in_a_moment(name):
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 8 - 1
    y = torch.tensor(labels)[order]
    model = MODELS[name].make()
    learn(model, x[:1400], y[:1400], epochs=6)
    right = model.eval()(x[1400:]).argmax(1) == y[1400:]
    assert right.double().mean() > 0.97


def learn(model, x, y, epochs):
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()
