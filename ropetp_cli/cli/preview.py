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
    report = _report(run_dir)
    from ropetp_cli import exchange
    from ropetp_cli.body.model import load_body
    from ropetp_cli.cli.progress import progress_bars
    from ropetp_cli.files import writable_directory
    from ropetp_cli.preview import render_previews

    written = report.get("files")
    motions = [
        exchange.read(path)
        for path in sorted(run_dir.glob("person_*.npz"))
        if not isinstance(written, list) or path.name in written
    ]
    if not motions:
        raise RopeTPError(f"{run_dir}: holds no person_*.npz; capture again with --format npz")
    model = load_body(body)
    for motion in motions:
        if motion.body != model.label:
            made_with = motion.body.split(":")[0] or "an unknown body"
            raise RopeTPError(
                f"{run_dir}: made with {made_with}, not {model.name}; name its file with --body"
            )
    source = report["video"]
    video = video or Path(source["path"])
    if (changed := _changed(video, report, run_dir)) is not None:
        click.echo(f"ropetp: note: {changed}", err=True)
    out = writable_directory(out or run_dir)
    with progress_bars(quiet) as progress, progress("preview", None) as advance:
        files = render_previews(
            video, motions, model, out, previews,
            progress=advance, start=source.get("start"), end=source.get("end"), with_mesh=with_mesh,
        )  # fmt: skip
    for path in files:
        click.echo(path)


def _report(run_dir: Path) -> dict[str, Any]:
    """The report, which names its video."""
    path = run_dir / "report.json"
    try:
        report = json.loads(path.read_text())
        if not isinstance(report["video"]["path"], str):
            raise TypeError
        return report
    except OSError as error:
        raise RopeTPError(f"{run_dir}: not a finished capture (no report.json)") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RopeTPError(f"{path}: damaged; capture again with --force") from error


def _changed(video: Path, report: dict[str, Any], run_dir: Path) -> str | None:
    """A note where ``video`` is not to the byte what was captured; RopeTPError where people cannot
    lie over it."""
    from ropetp_cli.runs import fingerprint
    from ropetp_cli.video.reader import VideoReader

    if not video.exists():
        raise RopeTPError(f"{video}: the captured video is not there; name it with --video FILE")
    with VideoReader(video) as reader:
        size = reader.info.size
    captured = report["video"].get("width", size[0]), report["video"].get("height", size[1])
    if size != captured:
        raise RopeTPError(
            f"{video}: {size[0]} x {size[1]} px, but {run_dir} was captured from "
            f"{captured[0]} x {captured[1]}; name that video with --video FILE"
        )
    source = report.get("source")
    if isinstance(source, dict) and fingerprint(video, source)["sha256"] != source.get("sha256"):
        return f"{video}: changed since it was captured; people may not lie over it"
    return None
