"""``slimnet verify``: the proof again, from the files alone."""

from __future__ import annotations

from slimnet.cli import commands, tables
from slimnet.cli.shared import place_of, print_json, slim_and_dense
from slimnet.files.access import verify as verify_file


def verify(options: commands.Verify) -> None:
    """Read, prove, show."""
    place = place_of(options.run)
    artifact, dense = slim_and_dense(options.slim, options.against, options.files)
    certificate = verify_file(artifact, dense.model.to(place), seed=options.run.seed)
    if options.run.json:
        print_json({**certificate.to_json(), "trained": artifact.trained})
    else:
        tables.show_proof(certificate, trained=artifact.trained)
