"""``ropetp capture VIDEO``: the main job."""

import json
from pathlib import Path
from typing import Any

import click

from ropetp_cli.cli.options import capture_options, check_span


@click.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where to write; VIDEO-stem_ropetp if not given.")  # fmt: skip
@capture_options
@click.option("--force", is_flag=True, help="Capture again even if DIR holds this very capture.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(
    video: Path, out: Path | None, force: bool, as_json: bool, quiet: bool, **options
) -> None:
    """Every person's global motion from one VIDEO, as files Blender opens."""
    check_span(options["start"], options["end"])
    from ropetp_cli.cli.progress import progress_bars
    from ropetp_cli.pipeline import CaptureOptions, capture

    with progress_bars(quiet or as_json) as progress:
        done = capture(video, out, CaptureOptions(**options), progress, force=force)
    if as_json:
        click.echo(json.dumps(done.report))
    else:
        show_report(done.report, done.out)


def show_report(report: dict[str, Any], out: Path) -> None:
    """Notes on stderr; one line a person and one a file on stdout."""
    for warning in report["warnings"]:
        click.echo(f"ropetp: note: {warning}", err=True)
    if report["camera"]["focal_source"].startswith("assumed"):
        note = "focal length assumed, distances with it; --focal-mm 26, say, if you know the lens"
        click.echo(f"ropetp: note: {note}", err=True)
    for person in report["people"]:
        path, agreement = person["path"], person["joint_agreement"]
        guess = "" if person["height_source"] == "given" else " (a guess: --height)"
        click.echo(
            f"person {person['id']}: {person['output_frames']} frames, "
            f"{person['height_m']:.2f} m tall{guess}, "
            f"{path['length_m']:.2f} m at {path['mean_speed_m_per_s']:.2f} m/s, "
            f"{agreement['share']:.0%} of {agreement['keypoints']} keypoints agree"
        )
    for name in [*report["files"], "report.json"]:
        click.echo(out / name)
