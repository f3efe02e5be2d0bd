"""``slimnet sparsify``: training before a cut."""

from __future__ import annotations

from pathlib import Path

from slimnet import console, options
from slimnet.cli.shared import open_to_train, print_json, use_threads
from slimnet.cli.targets import STATE, check_target


def sparsify(
    model: options.ModelFile,
    data: options.Data,
    output: options.SparseFile = Path("sparse.pt"),
    method: options.Method = "slimming",
    strength: options.Strength = None,
    rate: options.Rate = None,
    epochs: options.Epochs = 160,
    lr: options.LearningRate = 0.1,
    train_batch: options.TrainBatch = 64,
    weight_decay: options.WeightDecay = 1e-4,
    normalize: options.Normalize = None,
    train_images: options.TrainImages = None,
    test_images: options.TestImages = None,
    overwrite: options.Overwrite = False,
    arch: options.Arch = None,
    weights: options.Weights = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Train a network sparse, so that a cut costs less; writes a plain state dict.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet sparsify net.pt --method slimming --data npz:cifar10.npz -o sparse.pt
    """
    from slimnet.comparison import one_image
    from slimnet.sparsity import SPARSIFIERS
    from slimnet.sparsity.training import Recipe, checkpoint_of, write_state
    from slimnet.sparsity.training import sparsify as sparsify_network
    from slimnet.train import Schedule, load_data

    use_threads(threads)
    schedule = Schedule(epochs=epochs, lr=lr, batch=train_batch, weight_decay=weight_decay)
    amount = SPARSIFIERS[method].amount(method, strength, rate)
    place = options.device(device)
    check_target(output, STATE, (model, data, arch), overwrite=overwrite)
    dataset = load_data(data, normalize).limited(train=train_images, test=test_images)
    opened = open_to_train(model, arch, allow_pickle, weights, dense=True)
    example = one_image(opened, dataset)
    with console.watching(quiet=as_json) as watch:
        sparse = sparsify_network(
            opened.model,
            example,
            dataset,
            Recipe(method, amount, schedule, seed),
            checkpoint=checkpoint_of(output),
            device=place,
            progress=lambda part: watch(f"training: {method}", part),
        )
    write_state(sparse.model, output)
    if as_json:
        print_json({"network": str(model), "output": str(output), **sparse.to_json()})
        return
    console.show_sparse(sparse)
    console.written(output)
