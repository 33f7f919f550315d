"""``ropetp clean DIR``: what captures keep to be quick the next time, thrown away."""

import os
from pathlib import Path

import click

from ropetp_cli.errors import RopeTPError


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def command(directory: Path) -> None:
    """Remove the stage caches of the run directory DIRECTORY, or of all runs below it.

    Motions, previews and reports stay, and finished captures are still recognised. Drafts left
    by killed runs go too. Links are not followed.
    """
    from ropetp_cli.files import discard_drafts
    from ropetp_cli.stages import remove_cache

    if not directory.is_dir():
        raise RopeTPError(f"{directory}: not a directory")
    freed = caches = 0
    for folder, below, _ in os.walk(directory):
        here = Path(folder)
        if "cache" in below and (removed := remove_cache(here / "cache")) is not None:
            freed, caches = freed + removed + discard_drafts(here), caches + 1
    click.echo(f"{directory}: {caches} caches removed, {freed / 1e6:.1f} MB")
