"""``ropetp batch DIR``: every video below a directory."""

import sys
from pathlib import Path

import click

from ropetp_cli.cli.options import capture_options, check_span

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the run directories go; beside each video if not given.",
)
@capture_options
@click.option("--force", is_flag=True, help="Capture again what is finished.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(directory: Path, out: Path | None, force: bool, quiet: bool, **options) -> None:
    """Capture every video below DIRECTORY.

    Finished ones are recognised and skipped, a failed one does not stop the rest. Exits 1 if any
    failed.
    """  # fmt: skip
    check_span(options["start"], options["end"])
    from rich.console import Console
    from rich.table import Table

    from ropetp_cli.cli.progress import progress_bars
    from ropetp_cli.errors import NobodyFound, RopeTPError
    from ropetp_cli.pipeline import CaptureOptions, capture
    from ropetp_cli.runs import finished_report, run_key

    if not directory.is_dir():
        raise RopeTPError(f"{directory}: not a directory")
    videos = sorted(p for p in directory.rglob("*") if p.suffix.lower() in SUFFIXES
                    and not any(part.endswith("_ropetp") for part in p.parts))  # fmt: skip
    if not videos:
        raise RopeTPError(f"{directory}: holds no video ({', '.join(SUFFIXES)})")
    told = CaptureOptions(**options)
    table = Table("video", "result", "people", "frames", "files in")
    failed = 0
    for video in videos:
        home = (out / video.relative_to(directory).parent) if out else video.parent
        run = home / f"{video.stem}_ropetp"
        name = str(video.relative_to(directory))
        try:
            if not force and finished_report(run, run_key(video, told)):
                table.add_row(name, "finished before", "", "", str(run))
                continue
            with progress_bars(quiet) as progress:
                done = capture(video, run, told, progress, force=force)
        except NobodyFound as error:
            table.add_row(name, "nobody found", "0", "", "")
            click.echo(f"ropetp: note: {error}", err=True)
        except RopeTPError as error:
            failed += 1
            table.add_row(name, "[red]failed[/red]", "", "", "")
            click.echo(f"ropetp: error: {error}", err=True)
        else:
            report = done.report
            table.add_row(name, "done", str(len(report["people"])),
                          str(report["video"]["frames"]), str(run))  # fmt: skip
    Console().print(table)
    sys.exit(1 if failed else 0)
