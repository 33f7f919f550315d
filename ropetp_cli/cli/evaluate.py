"""``ropetp evaluate``: measured against ground truth, as the paper's tables do."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ropetp_cli.evaluation.trajectory import Comparison


@click.group()
def command() -> None:
    """Measure against ground truth, as the paper's tables do."""


@command.command()
@click.argument("mocap", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A directory with a manifest, or a .safetensors file; the shipped weights if not given.",
)
@click.option(
    "--steps", type=click.IntRange(1, 1000), default=100, show_default=True, help="DDIM steps."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@click.option(
    "--noise",
    type=click.Choice(["clean", "rope"]),
    default="clean",
    show_default=True,
    help="True joints, or joints with made-up errors of a pose network.",
)
@click.option("--errors", type=click.Path(dir_okay=False, path_type=Path),
              help="What Rope saw of MOCAP (python -m ropetp_cli.training.filming): measure on "
              "what was filmed, behind Rope's own errors.")  # fmt: skip
@click.option("--physics", is_flag=True, help="Also with the physics stage.")
@click.option("--plot", type=click.Path(file_okay=False, path_type=Path),
              help="A directory for pictures of the worst three clips of each action.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
def trajectory(
    mocap: Path,
    as_json: bool,
    weights: Path | None,
    steps: int,
    seed: int,
    noise: str,
    errors: Path | None,
    physics: bool,
    plot: Path | None,
    device: str,
) -> None:
    """TrajDenoiser against constant position and foot pinning on MOCAP (.npz).

    Physics, and weights that are guided by rotations, are measured on the clips that have them.
    """
    from ropetp_cli.evaluation.trajectory import compare, physics_rows, views
    from ropetp_cli.training.mocap import load_clips, load_turned_clips
    from ropetp_cli.training.observed import observed
    from ropetp_cli.trajectory.denoiser import load_denoiser
    from ropetp_cli.trajectory.sampling import regenerate_path
    from ropetp_cli.weights import find_weights

    is_file = weights is not None and weights.suffix == ".safetensors"
    model = load_denoiser(weights if is_file else find_weights("trajectory", weights))
    load = load_turned_clips if physics or model.config.condition == "rot6d" else load_clips
    clips = load(mocap)
    if errors is not None:
        parts, noise = observed(errors, None if is_file else weights).parts(clips), "observed"
        pairs = [(part.clip, part.seen()) for part in parts]
    else:
        pairs = views(clips, noise, seed)

    def denoiser(clip):
        return regenerate_path(
            model, clip.joints, clip.fps, steps, seed, device, rotations=clip.rotations
        )

    found = compare(pairs, lambda clip: denoiser(clip).path)
    rows, applied = physics_rows(pairs, denoiser) if physics else ({}, 0)
    if plot is not None:
        _plot_worst(found, plot, noise)
    totals, groups, worst = found.totals(), found.groups(), found.worst()
    if as_json:
        facts = {
            "file": str(mocap),
            "clips": len(pairs),
            "frames": sum(len(clip) for clip, _ in pairs),
            "noise": noise,
            "steps": steps,
            "seed": seed,
        }
        # The judged method's own figures lie at the top level, the methods' tables beside them.
        report = totals["trajdenoiser"] | facts | totals | {"w_mpjpe_by_action": groups}
        if physics:
            report |= {"physics": rows | {"applied": applied}}
        click.echo(json.dumps(_without_nan(report | {"worst": worst})))
        return
    frames = sum(len(clip) for clip, _ in pairs)
    click.echo(f"{len(pairs)} clips, {frames} frames, joints {noise}")
    columns = ["W-MPJPE mm", "WA-MPJPE mm", "RTE %", "accel m/s2", "jitter 10m/s3", "sliding mm"]
    _table("method", columns, totals)
    if physics:
        click.echo(f"\nphysics, applied to {applied} of {len(pairs)} clips")
        _table("stage", columns, rows)
    click.echo("\nW-MPJPE, mm, by action")
    _table("action", list(totals), groups)
    click.echo("\nworst clips, W-MPJPE, mm")
    for clip in worst:
        click.echo(f"{clip['name']:24.24} {clip['w_mpjpe']:8.1f}  {clip['desc']}")


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def motion(run: Path, truth: Path, as_json: bool) -> None:
    """A captured motion (RUN directory or npz) against its TRUTH (npz)."""
    from ropetp_cli.evaluation.motion import compare_run

    _print(compare_run(run, truth), as_json)


@command.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--set",
    "names",
    multiple=True,
    default=("syn_test", "real_val"),
    show_default=True,
    help="Crop sets in DATA; may be given more than once.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A directory with a manifest, or a .safetensors file.",
)
@click.option(
    "--teacher",
    type=click.Path(path_type=Path),
    help="A BlazePose .tflite to measure on the same crops.",
)
@click.option("--alone", is_flag=True, help="Without keypoints.")
@click.option("--aligned/--not-aligned", default=True, show_default=True,
              help="Bend the pose to the 2D evidence at the end.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Look once, not also in a mirror.")
@click.option("--near", is_flag=True, help="Look from near by, as at the frames of a video.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pose(
    data: Path,
    names: tuple[str, ...],
    weights: Path | None,
    teacher: Path | None,
    alone: bool,
    aligned: bool,
    quick: bool,
    near: bool,
    device: str,
    as_json: bool,
) -> None:
    """Rope on the labelled crops of DATA: PCK on real ones, mm on rendered ones."""  # fmt: skip
    from ropetp_cli.body.model import load_body
    from ropetp_cli.evaluation.pose import evaluate_sets

    found = evaluate_sets(
        data, names, weights, load_body(), device, teacher, alone, aligned, quick, near
    )
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, figures in found.items():
        click.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))


@command.command()
@click.argument("sightings", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path),
              help="A directory with a manifest, or a .safetensors file.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def temporal(sightings: Path, weights: Path | None, device: str, as_json: bool) -> None:
    """Rope over time against Rope alone, on SIGHTINGS of filmed motion capture (.npz)."""
    from ropetp_cli.body.model import load_body
    from ropetp_cli.evaluation.temporal import evaluate
    from ropetp_cli.rope.temporal import load_temporal
    from ropetp_cli.training.sightings import Sightings
    from ropetp_cli.weights import find_weights

    is_file = weights is not None and weights.suffix == ".safetensors"
    model = load_temporal(weights if is_file else find_weights("temporal", weights))
    found = evaluate(model, Sightings.load(sightings), load_body(), device)
    if as_json:
        click.echo(json.dumps(found))
        return
    _table("Rope", list(found["alone"]), found)


@command.command()
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--index", type=click.IntRange(0), default=0, show_default=True,
              help="Which crop, where PICTURE is a crop set's directory.")  # fmt: skip
@click.option("--set", "name", default="syn_test", show_default=True, help="Which set of it.")
@click.option("--weights", "files", type=click.Path(path_type=Path), multiple=True,
              help="A .safetensors file or a directory with a manifest; may be given more than "
              "once, to compare.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="The picture to write (.png).")  # fmt: skip
@click.option("--side", type=click.IntRange(8, 256), default=48, show_default=True,
              help="Of the occluder, px of the 256 px crop.")  # fmt: skip
@click.option("--alone", is_flag=True, help="Without keypoints.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def occlusion(
    picture: Path,
    index: int,
    name: str,
    files: tuple[Path, ...],
    out: Path,
    side: int,
    alone: bool,
    device: str,
    as_json: bool,
) -> None:
    """Slide an occluder over PICTURE and map the worst joint error (the paper's Figure 1).

    PICTURE is a photograph, whose largest person is taken and whose clear answer is the reference,
    or the directory of a crop set, whose labels are.
    """
    import cv2

    from ropetp_cli.body.model import load_body
    from ropetp_cli.errors import RopeTPError
    from ropetp_cli.evaluation.occlusion import crop_of_picture, crop_of_set, draw, finder
    from ropetp_cli.evaluation.occlusion import sensitivity as measure
    from ropetp_cli.rope.predictor import RopePredictor

    body = load_body()
    keypoints = finder(device, alone)
    if picture.is_dir():
        crop, truth = crop_of_set(picture, name, index)
    else:
        crop, truth = crop_of_picture(picture, device), None
    maps = {}
    short = len({path.stem for path in files}) == len(files)
    for path in files or (None,):
        rope = RopePredictor.from_weights(body, path, device)
        label = (path.stem if short else str(path)) if path else "rope"
        maps[label] = measure(rope, body, crop, keypoints, truth, side)
    if not cv2.imwrite(str(out), draw(crop, maps)):
        raise RopeTPError(f"{out}: cannot be written; name a .png in a directory that exists")
    summary = {label: found.summary() for label, found in maps.items()}
    if as_json:
        click.echo(json.dumps(summary))
        return
    for label, figures in summary.items():
        clear = "from its own clear answer" if truth is None else f"({figures['clear_mm']} clear)"
        click.echo(
            f"{label}: the worst joint is {figures['mean_mm']} mm off {clear} in the mean of all "
            f"places, {figures['p90_mm']} in the worst tenth of them"
        )
    click.echo(out)


def _plot_worst(found: "Comparison", folder: Path, noise: str, count: int = 3) -> None:
    """The worst clips of every action: their truth and each method's path from above and in
    height, all begun where the truth begins."""
    import cv2
    import numpy as np

    from ropetp_cli.preview.figure import PALETTE
    from ropetp_cli.preview.paths import (
        Line,
        draw_from_above,
        draw_heights,
        draw_legend,
        write_picture,
    )

    folder.mkdir(parents=True, exist_ok=True)
    for action, members in found.members().items():
        for place, k in enumerate(found.ranked(members)[:count], start=1):
            clip = found.clips[k]
            lines = [Line(clip.root, (60, 60, 60), "truth")]
            methods = list(found.scores.items())[::-1]  # the judged one is drawn last
            for color, (method, scores) in zip(PALETTE, methods, strict=False):
                path = scores[k].path - scores[k].path[0] + clip.root[0]
                label = f"{method} {scores[k].w_mpjpe.mean():.0f} mm"
                lines.append(Line(path, color, label))
            above = draw_from_above(
                [line._replace(label="") for line in lines], [clip.fps] * len(lines)
            )
            width = max(above.shape[1], 700)
            side = width - above.shape[1]
            above = cv2.copyMakeBorder(above, 0, 0, 0, side, cv2.BORDER_CONSTANT, value=(250,) * 3)
            title = f"{clip.name}: {clip.desc}, joints {noise}"
            name = re.sub(r"[^A-Za-z0-9]+", "_", f"{action[:40]}_{place}_{clip.name}")
            parts = draw_legend(lines, title, width), above, draw_heights(lines, clip.fps, width)
            write_picture(np.vstack(parts), folder / f"{name}.png")


def _print(figures: dict[str, float], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for name, value in figures.items():
            click.echo(f"{name:<18} {value:10.3f}")


def _table(corner: str, columns: list[str], rows: dict[str, dict[str, float]]) -> None:
    click.echo(f"{corner:40}" + "".join(f"{column:>19}" for column in columns))
    for name, figures in rows.items():
        cells = "".join(f"{value:19.2f}" for value in figures.values())
        click.echo(f"{name:40.40}{cells}")


def _without_nan(value: Any) -> Any:
    """JSON knows no nan: a figure that could not be measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value
