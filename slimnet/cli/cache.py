"""``slimnet cache``: what was measured on this machine and is kept, and how to be rid of it."""

from __future__ import annotations

from slimnet.cli import commands, console
from slimnet.cli.shared import print_json
from slimnet.timing.cache import cache_folder, kept


def cache(options: commands.Cache) -> None:
    """Show the tables of times, or remove them."""
    tables = kept()
    if options.clear:
        for table in tables:
            table.path.unlink(missing_ok=True)
    if options.run.json:
        print_json([table.to_json() for table in tables])
        return
    for table in tables:
        console.say(f"{table.readings:,} times of convolutions: {table.setting}")
    number = f"{len(tables)} table{'s' * (len(tables) != 1)}"
    console.say(f"{number} of times in {cache_folder()}{': removed' * options.clear}")
