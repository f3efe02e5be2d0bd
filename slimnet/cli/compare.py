"""``slimnet compare``: ratios, criteria and regimes side by side."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace

from slimnet import console, options
from slimnet.calibration import check_recognised, network_before, read_images
from slimnet.cli.shared import open_to_train, print_json, use_threads
from slimnet.cli.targets import check_apart
from slimnet.criteria import check_needs, load_criteria
from slimnet.output import make_folder


def compare(
    model: options.ModelFile,
    data: options.Data,
    output: options.Results,
    ratio: options.Ratios = "0.5",
    criterion: options.Criteria = "l1",
    across: options.Across = None,
    reduce: options.Reduce = None,
    samples: options.Samples = 1024,
    init: options.Init = None,
    regime: options.Regimes = "finetune,scratch-e,scratch-b",
    seeds: options.Seeds = 3,
    epochs: options.Epochs = 160,
    lr: options.LearningRate = 0.1,
    train_batch: options.TrainBatch = 64,
    weight_decay: options.WeightDecay = 1e-4,
    normalize: options.Normalize = None,
    train_images: options.TrainImages = None,
    test_images: options.TestImages = None,
    scope: options.Scope = "local",
    align: options.AlignTo = "auto",
    min_channels: options.MinChannels = None,
    keep: options.Keep = None,
    layer_ratio: options.LayerRatio = None,
    heads: options.Heads = False,
    best_effort: options.BestEffort = False,
    batch: options.Batch = 1,
    latency: options.Latency = True,
    overwrite: options.Overwrite = False,
    arch: options.Arch = None,
    weights: options.Weights = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    engine: options.Engine = None,
    workers: options.Workers = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Prune, retrain in several regimes with several seeds, and compare; writes report.html.

    Stopped and started again with the same options, it goes on where it was.

    Example: slimnet compare net.pt --data npz:cifar10.npz --ratio 0.3,0.5 --seeds 3 -o study
    """
    from slimnet.comparison import (
        Settings,
        check_cuts,
        one_image,
        run_comparison,
        write_comparison,
    )
    from slimnet.report import table
    from slimnet.study import ENGINES, Study
    from slimnet.study.masked import UNSTRUCTURED, cutting
    from slimnet.train import REGIMES, DataSpec, Schedule

    use_threads(threads)
    engine = engine or ("local" if workers is None else "processes")
    _ = ENGINES[engine]
    pages = [output / name for name in ("results.json", "report.html")]
    check_apart(pages, (model, init, data, arch), overwrite=overwrite)
    study = Study(
        ratios=options.numbers(ratio, "--ratio"),
        criteria=options.names(criterion, load_criteria(), UNSTRUCTURED),
        regimes=options.names(regime, REGIMES),
        seeds=tuple(range(seed, seed + seeds)),
        base=Schedule(epochs=epochs, lr=lr, batch=train_batch, weight_decay=weight_decay),
    )
    limits = options.limits(scope, align, min_channels, keep, layer_ratio)
    for name in cutting(study.criteria):
        options.check_cut(ratio=0.0, criterion=name, across=across, reduce=reduce, **limits)
        check_needs(name, data=True, init=init is not None)
    settings = Settings(
        prune={
            **limits,
            "across": across,
            "reduce": reduce,
            "heads": heads,
            "best_effort": best_effort,
            "seed": seed,
        },
        latency_batch=batch if latency else None,
        threads=threads,
        device=str(options.device(device)),
        samples=samples,
        engine=engine,
        workers=workers,
    )
    spec = DataSpec(data, normalize, train_images, test_images)
    dataset = spec.load()
    opened = open_to_train(model, arch, allow_pickle, weights)
    example = one_image(opened, dataset)
    check_recognised(model, opened, dataset.samples(512, seed))
    settings = replace(
        settings,
        data=dataset.samples(samples, seed) if read_images(cutting(study.criteria)) else None,
        init=network_before(init, opened, allow_pickle=allow_pickle),
    )
    check_cuts(opened.model, example, study, settings)
    folder = make_folder(output)
    with console.watching(quiet=as_json) as watch:
        network = run_comparison(
            model.stem,
            opened.model,
            example,
            dataset,
            study,
            folder,
            settings,
            watch,
            arch=opened.arch,
            spec=spec,
        )
        command = shlex.join(["slimnet", *sys.argv[1:]])
        page = write_comparison(folder, f"{model.name}: slim networks", command, [network])
    if as_json:
        print_json(network.results.to_json() if network.results else {})
        return
    if network.results is not None:
        console.show(table(network.results))
    console.written(page, "written, with results.json and the cells beside it")
