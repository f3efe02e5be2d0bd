"""``slimnet compare``: budgets, criteria, scopes and regimes side by side."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from slimnet.cli import commands, console
from slimnet.cli.calibration import check_recognised, network_before, read_images
from slimnet.cli.shared import open_to_train, place_of, print_json
from slimnet.cli.targets import check_apart
from slimnet.cli.training import data_of, schedule_of
from slimnet.comparison import Settings, check_cuts, one_sample, run_comparison, write_comparison
from slimnet.criteria import load_criteria
from slimnet.files.access import Opened
from slimnet.output import make_folder
from slimnet.planning.request import CutRequest
from slimnet.report import table, verdict_lines
from slimnet.rewinding import Rewinds
from slimnet.study import ENGINES, KEEP, STORES, Results, Study
from slimnet.study.budget import Budget, listed, ratios
from slimnet.study.cells import mask_of
from slimnet.study.masked import cutting
from slimnet.study.results_file import results_json
from slimnet.task import Task, outputs_read, samples_from
from slimnet.tasks.classification import Dataset
from slimnet.text import count
from slimnet.train import REGIMES


def compare(options: commands.Compare) -> None:
    """Refuse, read, run, write, show."""
    files, run = options.files, options.run
    place = place_of(run)
    pages = [options.output / name for name in ("results.json", "report.html")]
    reads = (options.model, options.init, options.data, files.arch)
    check_apart(pages, reads, overwrite=files.overwrite)
    study = _study(options)
    for name in cutting(study.criteria):
        request = replace(options.cut, ratio=0.0, criterion=name)
        request.check(data=True, init=options.init is not None)
    engine, _, _ = _engine(options), STORES[options.store], KEEP[options.keep_networks]
    opened = open_to_train(options.model, files)
    spec = data_of(options.data, options.training, opened, files)
    task = spec.load()
    example = one_sample(opened, task)
    if isinstance(task, Dataset):
        check_recognised(options.model, opened, task.samples(512, run.seed))
    settings = _settings(options, study, opened, task, str(place), engine)
    check_cuts(opened.model, example, study, settings)
    folder = make_folder(options.output)
    with console.watching(quiet=run.json) as watch:
        what = (options.model.stem, opened.model, example, task, study, folder, settings)
        network = run_comparison(*what, watch, arch=opened.arch, spec=spec)
        title = f"{options.model.name}: slim networks"
        command = shlex.join(["slimnet", *sys.argv[1:]])
        page = write_comparison(folder, title, command, [network])
    if run.json:
        print_json(results_json(network.results) if network.results else {})
        return
    if network.results is not None:
        _show(network.results, folder)
    console.written(page, "written, with results.json and the cells beside it")


def _show(results: Results, folder: Path) -> None:
    console.show(table(results))
    for line in verdict_lines(results):
        console.say(line)
    if kept := results.kept:
        onnx = sum(one.onnx is not None for one in kept)
        with_onnx = "each" if onnx == len(kept) else f"{onnx} of them"
        said = f"holds {count(len(kept), 'network')}, {with_onnx} with ONNX"
        console.written(folder / "kept", said)


def _settings(
    options: commands.Compare, study: Study, opened: Opened, task: Task, device: str, engine: str
) -> Settings:
    """How slim networks are made, trained and kept."""
    files, run = options.files, options.run
    read = options.cut.outputs or outputs_read(task)
    data = None
    if read_images(cutting(study.criteria)):
        data = samples_from(task, options.samples, run.seed, opened.model)
    return Settings(
        prune=_shared(replace(options.cut, seed=run.seed, outputs=read)),
        batch=options.batch,
        timed=options.time,
        threads=run.threads,
        device=device,
        samples=options.samples,
        data=data,
        init=network_before(options.init, opened, allow_pickle=files.allow_pickle),
        history=_history(options),
        engine=engine,
        workers=options.workers,
        store=options.store,
        keep=options.keep_networks,
        curves=options.curves,
    )


def _study(options: commands.Compare) -> Study:
    seed = options.run.seed
    return Study(
        budgets=_budgets(options),
        criteria=_criteria(options.criterion),
        scopes=(None,) if options.scope is None else words(options.scope),
        regimes=names(options.regime, REGIMES),
        seeds=tuple(range(seed, seed + options.seeds)),
        base=schedule_of(options.training, _history(options)),
    )


def _history(options: commands.Compare) -> Rewinds | None:
    return None if options.history is None else Rewinds(options.history)


def _engine(options: commands.Compare) -> str:
    """Several workers are processes where nothing else is asked for."""
    name = options.engine or ("local" if options.workers is None else "processes")
    _ = ENGINES[name]
    return name


def _budgets(options: commands.Compare) -> tuple[Budget, ...]:
    """All that were typed, or half of the channels."""
    typed = {
        "ratio": options.ratio,
        "macs": options.macs,
        "params": options.params,
        "compression": options.compression,
        "bytes": options.bytes,
        "latency": options.latency,
    }
    pairs = [(kind, text) for kind, text in typed.items() if text is not None]
    return tuple(b for kind, text in pairs for b in listed(kind, text)) or ratios(0.5)


def _criteria(text: str) -> tuple[str, ...]:
    """Those that cut, and masks of single weights."""
    known, listed = load_criteria(), words(text)
    for name in listed:
        _ = mask_of(name) or known[name]
    return listed


def words(text: str) -> tuple[str, ...]:
    """``l1,bn-scale``."""
    return tuple(name.strip() for name in text.split(","))


def names(text: str, registry: Any) -> tuple[str, ...]:
    """``finetune,scratch-e``: each must be in the registry."""
    listed = words(text)
    for name in listed:
        _ = registry[name]
    return listed


def _shared(request: CutRequest) -> Mapping[str, Any]:
    """What is the same in all cuts of the comparison."""
    asked = request.plain()
    return {"scope": "local", **{name: asked[name] for name in (*commands.COMPARED, "seed")}}
