"""``slimnet repair``: new weights for a slim network, without training."""

from __future__ import annotations

from pathlib import Path

from slimnet import console, options
from slimnet.calibration import check_recognised, read_samples
from slimnet.cli.shared import print_json, slim_and_dense, use_threads, write_slim
from slimnet.cli.targets import SLIM, check_target
from slimnet.files import repair as repair_file


def repair(
    slim: options.SlimInput,
    against: options.Original,
    data: options.Data,
    output: options.Repaired = Path("repaired.pt"),
    normalize: options.Normalize = None,
    samples: options.Samples = 1024,
    overwrite: options.Overwrite = False,
    arch: options.Arch = None,
    weights: options.Weights = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Win back the accuracy of a slim network without training and without labels.

    Example: slimnet repair slim.pt --against resnet18.pt --data npz:cifar10.npz -o repaired.pt
    """
    use_threads(threads)
    place = options.device(device)
    check_target(output, SLIM, (slim, against, data, arch), overwrite=overwrite)
    artifact, dense = slim_and_dense(slim, against, arch, allow_pickle, weights)
    with console.watching(quiet=as_json) as watch:
        images = read_samples(data, normalize, samples, artifact.example, seed)
        check_recognised(against, dense, images)
        mended = repair_file(artifact, dense.model.to(place), images, seed=seed, watch=watch)
        write_slim(mended.artifact, mended.model, output)
    done = mended.repair
    if as_json:
        print_json({"output": str(output), "repair": done.to_json()})
        return
    console.show_repair(done)
    console.written(output)
