"""``slimnet auto``: the whole way, from a trained network to files to ship."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace

from slimnet.auto.journal import AUTO
from slimnet.auto.request import AutoRequest
from slimnet.auto.steps import FILES
from slimnet.auto.way import run_auto
from slimnet.cli import commands, console
from slimnet.cli.shared import print_json
from slimnet.cli.targets import check_apart
from slimnet.cli.whole import asked, open_whole, tell


def auto(options: commands.Auto) -> None:
    """Refuse, read, take every step, show each as it ends."""
    files, run = options.files, options.run
    request = AutoRequest(**asked(options), speed=options.speed, distill=options.distill)
    made = [options.output / name for name in (AUTO, "report.html", *FILES)]
    check_apart(made, (options.model, options.data, files.arch), overwrite=files.overwrite)
    whole = open_whole(options)
    with console.watching(quiet=run.json) as watch:
        steps = run_auto(
            whole.opened,
            whole.example,
            whole.task,
            replace(request, spelled=whole.spelled),
            options.output,
            title=f"{options.model.name}: from dense to slim",
            command=shlex.join(["slimnet", *sys.argv[1:]]),
            device=whole.place,
            watch=watch,
            tell=lambda what, done, earlier: None if run.json else tell(what, done, earlier),
        )
    if run.json:
        print_json({name: asdict(done) for name, done in steps.items()})
        return
    console.written(options.output / "report.html", "says what was done, and how to repeat it")
