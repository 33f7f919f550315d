"""``ropetp tracks VIDEO``: who is in it, to pick ``--person`` from."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropetp_cli.cli.options import POSITIVE, check_span

if TYPE_CHECKING:
    import numpy as np

    from ropetp_cli.motion import Track
    from ropetp_cli.people.tracker import TrackingResult
    from ropetp_cli.video.reader import VideoReader

#: BGR, one a person, in turn; all readable on dark and light.
COLOURS = (
    (80, 175, 76), (54, 67, 244), (243, 150, 33), (7, 193, 255), (176, 39, 156), (34, 87, 255),
    (212, 188, 0), (99, 30, 233),
)  # fmt: skip
#: Pictures of each person on the sheet, and their side, px.
PICTURES, SIDE = 6, 200
_HEAD, _GAP = 28, 6


@click.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="PNG",
    help="The contact sheet; VIDEO-stem_tracks.png if not given.",
)
@click.option("--start", type=click.FloatRange(min=0), help="Begin here, s.")
@click.option("--end", type=POSITIVE, help="End here, s.")
@click.option("--detector", metavar="FILE", help="Other ultralytics detector weights.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(
    video: Path,
    out: Path | None,
    start: float | None,
    end: float | None,
    detector: str | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Who is in VIDEO: a table, and a contact sheet with the ids that --person takes."""
    check_span(start, end)
    import cv2

    from ropetp_cli.cli.progress import progress_bars
    from ropetp_cli.files import atomic_path, writable_directory
    from ropetp_cli.people.detector import Detector
    from ropetp_cli.people.tracker import follow_people
    from ropetp_cli.pipeline import choose_device
    from ropetp_cli.video.reader import VideoReader

    out = out or Path(f"{video.stem}_tracks.png")
    with VideoReader(video, start, end) as reader:
        writable_directory(out.parent)
        finder = Detector(detector, device=choose_device(device))
        with (
            progress_bars(quiet or as_json) as progress,
            progress("people", reader.expected_frames) as advance,
        ):
            found = follow_people(reader, finder, advance)
        sheet = contact_sheet(reader, found)
    with atomic_path(out) as temporary:
        temporary.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())
    rows = [describe(track, found) for track in found.tracks]
    if as_json:
        click.echo(json.dumps({
            "video": str(video), "fps": round(found.fps, 4), "frames": len(found.timestamps),
            "sheet": str(out), "people": rows, "cuts": found.cuts, "warnings": found.warnings,
        }))  # fmt: skip
        return
    for warning in found.warnings:
        click.echo(f"ropetp: note: {warning}", err=True)
    click.echo("  id  frames   seen  seconds      from - to, s   mean box, px")
    for row in rows:
        click.echo(
            f"{row['id']:>4}  {row['frames']:>6} {row['frames_seen']:>6} {row['seconds']:>8.2f}"
            f"  {row['from_s']:>8.2f} -{row['to_s']:>7.2f}"
            f"   {row['mean_width_px']:.0f} x {row['mean_height_px']:.0f}"
        )
    click.echo(out)


def describe(track: "Track", found: "TrackingResult") -> dict[str, Any]:
    """One row of the table."""
    times = found.times_of(track)
    width, height = (track.boxes[:, 2:] - track.boxes[:, :2]).mean(axis=0)
    return {
        "id": track.id,
        "frames": len(track),
        "frames_seen": int(track.seen.sum()),
        "first_frame": int(track.frames[0]),
        "last_frame": int(track.frames[-1]),
        "seconds": round(float(times[-1] - times[0]) + 1 / found.fps, 3),
        "from_s": round(float(times[0]), 3),
        "to_s": round(float(times[-1]), 3),
        "mean_width_px": round(float(width), 1),
        "mean_height_px": round(float(height), 1),
    }


def contact_sheet(reader: "VideoReader", found: "TrackingResult") -> "np.ndarray":
    """A row of pictures for each person, uint8 BGR; streams the video once more.

    The pictures are spread evenly over the frames in which the person was seen.
    """
    import numpy as np

    from ropetp_cli.people.crops import crop_batch

    wanted: dict[int, list[tuple[int, int]]] = {}
    for row, track in enumerate(found.tracks):
        frames = track.frames[track.seen]
        picks = np.unique(np.linspace(0, len(frames) - 1, PICTURES).round().astype(int))
        for column, frame in enumerate(frames[picks]):
            wanted.setdefault(int(frame), []).append((row, column))
    pitch = SIDE + _GAP
    sheet = np.full(
        (len(found.tracks) * (pitch + _HEAD) + _GAP, PICTURES * pitch + _GAP, 3), 32, np.uint8
    )
    for index, time, frame in reader:
        for row, column in wanted.pop(index, ()):
            track = found.tracks[row]
            crop = crop_batch(frame, track.boxes[[index - track.frames[0]]], SIDE)[0][0]
            picture = np.ascontiguousarray(np.rot90(crop[..., ::-1], found.turn))
            x, y = _GAP + column * pitch, _GAP + row * (pitch + _HEAD)
            _place(sheet, picture, x, y, f"{track.id}", f"{time:.2f} s", track.id)
        if not wanted:
            break
    return sheet


def _place(
    sheet: "np.ndarray", picture: "np.ndarray", x: int, y: int, label: str, time: str, number: int
) -> None:
    import cv2

    colour = COLOURS[(number - 1) % len(COLOURS)]
    font, line = cv2.FONT_HERSHEY_SIMPLEX, cv2.LINE_AA
    sheet[y : y + _HEAD, x : x + SIDE] = colour
    sheet[y + _HEAD : y + _HEAD + SIDE, x : x + SIDE] = picture
    cv2.putText(sheet, label, (x + 7, y + 22), font, 0.8, (255, 255, 255), 2, line)
    width = cv2.getTextSize(time, font, 0.5, 1)[0][0]
    cv2.putText(sheet, time, (x + SIDE - width - 7, y + 20), font, 0.5, (255, 255, 255), 1, line)
    cv2.rectangle(sheet, (x, y), (x + SIDE - 1, y + _HEAD + SIDE - 1), colour, 2)
