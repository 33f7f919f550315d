"""``ropetp setup``: what cannot be shipped, and whether what is shipped is whole."""

import shutil
import sys
from pathlib import Path

import click

from ropetp_cli.errors import RopeTPError


@click.group()
def command() -> None:
    """Install a licensed body or check the weights."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
def body(file: Path) -> None:
    """Install FILE, a licensed SMPL body (pkl or npz, whatever its name), as the body "smpl".

    The file is checked by loading it, without running code in it and without chumpy. The embedded
    body stays the default: ask for the installed one with --body smpl.
    """
    from ropetp_cli.body.model import INSTALLED, data_directory, load_body
    from ropetp_cli.files import atomic_path

    loaded = load_body(file)
    with open(file, "rb") as opened:
        suffix = ".npz" if opened.read(2) == b"PK" else ".pkl"
    directory = data_directory()
    target = directory / f"{INSTALLED}{suffix}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as draft:
            shutil.copyfile(file, draft)
        for other in directory.glob(f"{INSTALLED}.*"):
            if other != target:
                other.unlink()
    except OSError as error:
        raise RopeTPError(
            f"{target}: cannot be written ({error.strerror}); "
            "set XDG_DATA_HOME to a folder that can"
        ) from error
    click.echo(str(target))
    click.echo(
        f"{len(loaded.v_template)} vertices, {loaded.label}. Use it with --body {INSTALLED}; the "
        "embedded body stays the default.\n"
        "Its own licence holds: SMPL is for non-commercial research unless you hold another one. "
        "Do not pass the file on.",
        err=True,
    )


@command.command()
@click.option("--weights", "directory", type=click.Path(path_type=Path), metavar="DIR",
              help="Weights other than those that ship.")  # fmt: skip
def weights(directory: Path | None) -> None:
    """Check every weight file by its sha256, after fetching what is missing.

    Only files whose entry in manifest.toml has an https address are fetched; no other command
    uses the network. Exits 1 if a file is missing or changed.
    """
    from ropetp_cli.people.detector import default_weights
    from ropetp_cli.weights import fetch_missing, verify

    for path in fetch_missing(directory):
        click.echo(f"fetched {path}", err=True)
    rows = verify(directory)
    try:
        rows.append(("detector", True, str(default_weights())))
    except RopeTPError as error:
        rows.append(("detector", False, str(error)))
    for name, good, message in rows:
        mark = click.style("ok " if good else "FIX", fg="green" if good else "red", bold=True)
        click.echo(f"{mark} {name:<28} {message}")
    sys.exit(0 if all(good for _, good, _ in rows) else 1)
