"""``ropetp preview RUN_DIR``: the pictures of a finished capture, drawn again."""

import json
from pathlib import Path
from typing import Any

import click

from ropetp_cli.cli.options import PREVIEWS, Words
from ropetp_cli.errors import RopeTPError

DRAWN = tuple(name for name in PREVIEWS if name != "none")


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--preview", "previews", type=Words(DRAWN), default="overlay,world,viewer",
              show_default=True, help="Pictures to draw.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where to write; RUN_DIR if not given.")  # fmt: skip
@click.option("--video", type=click.Path(path_type=Path), metavar="FILE",
              help="The captured video, if it was moved since.")  # fmt: skip
@click.option("--body", metavar="FILE", help="The SMPL file of a capture made with --body.")
@click.option("--with-mesh/--no-mesh", default=None,
              help="The body's surface in the viewer. Without either: the embedded body's yes, "
              "a licensed SMPL body's no.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(
    run_dir: Path,
    previews: tuple[str, ...],
    out: Path | None,
    video: Path | None,
    body: str | None,
    with_mesh: bool | None,
    quiet: bool,
) -> None:
    """Draw the overlay, world view, viewer and more of the finished capture in RUN_DIR."""
    source = _captured_video(run_dir)
    from ropetp_cli import exchange
    from ropetp_cli.body.model import load_body
    from ropetp_cli.cli.progress import progress_bars
    from ropetp_cli.files import writable_directory
    from ropetp_cli.preview import render_previews

    motions = [exchange.read(path) for path in sorted(run_dir.glob("person_*.npz"))]
    if not motions:
        raise RopeTPError(f"{run_dir}: holds no person_*.npz; capture again with --format npz")
    model = load_body(body)
    for motion in motions:
        if motion.body != model.label:
            made_with = motion.body.split(":")[0] or "an unknown body"
            raise RopeTPError(
                f"{run_dir}: made with {made_with}, not {model.name}; name its file with --body"
            )
    out = writable_directory(out or run_dir)
    with progress_bars(quiet) as progress, progress("preview", None) as advance:
        files = render_previews(
            video or source["path"], motions, model, out, previews,
            progress=advance, start=source.get("start"), end=source.get("end"), with_mesh=with_mesh,
        )  # fmt: skip
    for path in files:
        click.echo(path)


def _captured_video(run_dir: Path) -> dict[str, Any]:
    """What the report says of the video: its path, start and end."""
    path = run_dir / "report.json"
    try:
        source = json.loads(path.read_text())["video"]
        if not isinstance(source["path"], str):
            raise TypeError
        return source
    except OSError as error:
        raise RopeTPError(f"{run_dir}: not a finished capture (no report.json)") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RopeTPError(f"{path}: damaged; capture again with --force") from error
