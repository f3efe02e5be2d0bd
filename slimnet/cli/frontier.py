"""``slimnet frontier``: the metric against measured milliseconds, several cuts in one folder."""

from __future__ import annotations

from dataclasses import asdict

from slimnet.auto.frontier import files_of, run_frontier
from slimnet.auto.request import FrontierRequest
from slimnet.cli import commands, console
from slimnet.cli.shared import print_json
from slimnet.cli.whole import asked, run_whole
from slimnet.report.frontier import Frontier, frontier_table, verdict
from slimnet.task import Task


def frontier(options: commands.Frontier) -> None:
    """Refuse, read, take every step, show each as it ends, and the table."""
    request = FrontierRequest(**asked(options), targets=options.latency)

    def title(task: Task) -> str:
        return f"{options.model.name}: {task.metrics[0].name} against milliseconds"

    found = run_whole(options, request, files_of(request), title, run_frontier)
    if options.run.json:
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
