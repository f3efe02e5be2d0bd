"""``slimnet verify``: the proof again, from the files alone."""

from __future__ import annotations

from slimnet import console, options
from slimnet.cli.shared import print_json, slim_and_dense, use_threads
from slimnet.files import verify as verify_file


def verify(
    slim: options.SlimInput,
    against: options.Original,
    arch: options.Arch = None,
    weights: options.Weights = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Prove a slim network again, from the files alone.

    Example: slimnet verify slim.pt --against resnet18.pt
    """
    use_threads(threads)
    place = options.device(device)
    artifact, dense = slim_and_dense(slim, against, arch, allow_pickle, weights)
    certificate = verify_file(artifact, dense.model.to(place), seed=seed)
    if as_json:
        print_json({**certificate.to_json(), "trained": artifact.trained})
    else:
        console.show_proof(certificate, trained=artifact.trained)
