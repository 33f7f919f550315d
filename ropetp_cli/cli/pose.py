"""``ropetp pose IMAGE|DIR... -o OUT.npz``: still images."""

from pathlib import Path

import click

from ropetp_cli.cli.options import QUICK, focal_options


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="OUT.npz")
@click.option(
    "--boxes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='People given as JSON, {"image name": [[x0, y0, x1, y1], ...]} in px.',
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
@click.option("--body", metavar="FILE", help="A licensed SMPL file instead of the embedded body.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--detector", metavar="FILE", help="Other ultralytics detector weights.")
@click.option("--batch-size", type=click.IntRange(1, 1024), default=16, show_default=True)
@focal_options
@QUICK
def command(
    images: tuple[Path, ...],
    out: Path,
    boxes: Path | None,
    device: str,
    body: str | None,
    weights: Path | None,
    detector: str | None,
    batch_size: int,
    focal_px: float | None,
    focal_mm: float | None,
    quick: bool,
) -> None:
    """SMPL poses of the people in IMAGES (files or directories), as one npz."""  # fmt: skip
    from ropetp_cli.body.model import load_body
    from ropetp_cli.cli.progress import progress_bars
    from ropetp_cli.files import writable_directory
    from ropetp_cli.people.detector import Detector
    from ropetp_cli.pipeline import choose_device
    from ropetp_cli.rope.predictor import RopePredictor
    from ropetp_cli.stills import list_images, pose_images, read_boxes

    paths = list_images(list(images))
    given = read_boxes(boxes) if boxes else None
    writable_directory(out.parent)
    device = choose_device(device)
    model = load_body(body)
    rope = RopePredictor.from_weights(model, weights, device, quick=quick)
    finder = Detector(detector, device=device)
    with progress_bars() as progress, progress("pose", len(paths)) as advance:
        count, read, notes = pose_images(
            paths,
            out,
            rope,
            model,
            finder,
            given,
            batch_size,
            focal_px=focal_px,
            focal_mm=focal_mm,
            advance=advance,
        )
    for note in notes:
        click.echo(f"ropetp: note: {note}", err=True)
    click.echo(f"{out}: {count} people in {read} images")
