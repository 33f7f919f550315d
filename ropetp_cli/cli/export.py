"""``ropetp export MOTION.npz``: the same motion for other programs. No torch."""

from pathlib import Path

import click

from ropetp_cli.cli.options import FORMATS, LAYOUTS, Words, file_options
from ropetp_cli.errors import RopeTPError


@click.command()
@click.argument("sources", metavar="MOTION...", nargs=-1, required=True,
                type=click.Path(path_type=Path))  # fmt: skip
@click.option("--to", "formats", type=Words(FORMATS), default="bvh", show_default=True,
              help="What to write.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where to write; beside MOTION if not given.")  # fmt: skip
@click.option("--up", type=click.Choice(["y", "z"]), default="z", show_default=True,
              help="Up axis of an npz (BVH, GLB and FBX are y-up).")  # fmt: skip
@click.option("--npz-layout", "--layout", "layout", type=click.Choice(LAYOUTS), default="smpl",
              show_default=True, help="amass: an npz of 156 columns, z up, as AMASS's readers want "
              "it; all files then have 30 frames/s unless --fps.")  # fmt: skip
@click.option("--fps", type=click.FloatRange(min=0, min_open=True, max=1000),
              help="Resample to this rate.")  # fmt: skip
@file_options
@click.option("--body", metavar="FILE", help="The licensed SMPL file an AMASS motion belongs to.")
def command(
    sources: tuple[Path, ...],
    formats: tuple[str, ...],
    out: Path | None,
    up: str,
    layout: str,
    fps: float | None,
    skeleton: str,
    with_mesh: bool | None,
    one_glb: bool,
    body: str | None,
) -> None:
    """Convert each MOTION, one of our npz files or any AMASS npz.

    Blender keeps its scene at 24 frames a second when it imports a BVH: tick "Update Scene FPS".
    FBX needs Blender's module: pip install ropetp[fbx].
    """
    from ropetp_cli import exchange
    from ropetp_cli.exchange.npz import AMASS_FPS
    from ropetp_cli.exchange.resample import resampled
    from ropetp_cli.files import writable_directory

    model = _load_body(body) if body else None
    motions = [exchange.read(path, **({"body": model} if model else {})) for path in sources]
    if fps is None and layout == "amass" and "npz" in formats:
        fps = AMASS_FPS
    if fps is not None:
        motions = [motion if motion.fps == fps else resampled(motion, fps) for motion in motions]
    names = [path.stem for path in sources]
    folders = [out or path.parent for path in sources]
    jobs = [
        job
        for motion, name, folder in zip(motions, names, folders, strict=True)
        for job in exchange.targets([motion], [name], folder, formats)
        if not (one_glb and job[1].suffix == ".glb")
    ]
    if one_glb:
        jobs += exchange.targets(motions, names, folders[0], {"glb"} & set(formats), one_glb)
    for _, target in jobs:
        if any(target.exists() and target.samefile(path) for path in sources):
            raise click.UsageError(f"{target} would be replaced by its own copy; name another -o")
    if len({target for _, target in jobs}) < len(jobs):
        raise click.UsageError("two motions have the same name; export them to different -o DIRs")
    if out is not None:
        writable_directory(out)
    told = {"up": up, "layout": layout, "skeleton": skeleton, "body": model, "with_mesh": with_mesh}
    failures = []
    for motion, target in jobs:
        try:
            options = exchange.options_for(target.suffix, **told)
            click.echo(exchange.write(motion, target, **options))
        except RopeTPError as error:
            failures.append(str(error))
    if failures:
        raise RopeTPError("; ".join(failures))
    licensed = any(not exchange.may_travel(motion.body) for motion in motions)
    if "glb" in formats and with_mesh is None and licensed:
        click.echo(f"ropetp: note: GLB holds {exchange.LICENSED}", err=True)


def _load_body(name: str):
    from ropetp_cli.body.model import load_body

    return load_body(name)
