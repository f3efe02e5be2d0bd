"""``slimnet frontier``: the metric against measured milliseconds, several cuts in one folder."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace

from slimnet.auto.frontier import files_of, run_frontier
from slimnet.auto.request import FrontierRequest
from slimnet.cli import commands, console
from slimnet.cli.shared import print_json
from slimnet.cli.targets import check_apart
from slimnet.cli.whole import asked, open_whole, tell
from slimnet.report.frontier import Frontier, frontier_table, verdict


def frontier(options: commands.Frontier) -> None:
    """Refuse, read, take every step, show each as it ends, and the table."""
    files, run = options.files, options.run
    request = FrontierRequest(**asked(options), targets=options.latency)
    made = [options.output / name for name in files_of(request)]
    check_apart(made, (options.model, options.data, files.arch), overwrite=files.overwrite)
    whole = open_whole(options)
    with console.watching(quiet=run.json) as watch:
        found = run_frontier(
            whole.opened,
            whole.example,
            whole.task,
            replace(request, spelled=whole.spelled),
            options.output,
            title=f"{options.model.name}: {whole.task.metrics[0].name} against milliseconds",
            command=shlex.join(["slimnet", *sys.argv[1:]]),
            device=whole.place,
            watch=watch,
            tell=lambda what, done, earlier: None if run.json else tell(what, done, earlier),
        )
    if run.json:
        print_json({**asdict(found), "verdict": verdict(found)})
    else:
        _show(found, options)


def _show(found: Frontier, options: commands.Frontier) -> None:
    console.say()
    console.show(frontier_table(found))
    for point in found.points:
        if point.why:
            console.say(point.lacking)
    console.say(verdict(found))
    console.note(found.conditions)
    for remark in found.remarks:
        console.say(f"note: {remark}")
    console.written(options.output / "report.html", "shows it, and how to repeat it")
