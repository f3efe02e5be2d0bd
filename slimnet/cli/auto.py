"""``slimnet auto``: the whole way, from a trained network to files to ship."""

from __future__ import annotations

from dataclasses import asdict

from slimnet.auto.journal import AUTO
from slimnet.auto.request import AutoRequest
from slimnet.auto.steps import FILES
from slimnet.auto.way import run_auto
from slimnet.cli import commands, console
from slimnet.cli.shared import print_json
from slimnet.cli.whole import asked, run_whole


def auto(options: commands.Auto) -> None:
    """Refuse, read, take every step, show each as it ends."""
    request = AutoRequest(**asked(options), speed=options.speed, distill=options.distill)
    made = (AUTO, "report.html", *FILES)
    title = f"{options.model.name}: from dense to slim"
    steps = run_whole(options, request, made, lambda task: title, run_auto)
    if options.run.json:
        print_json({name: asdict(done) for name, done in steps.items()})
        return
    console.written(options.output / "report.html", "says what was done, and how to repeat it")
