"""``ropetp export MOTION.npz``: the same motion for other programs. No torch."""

from pathlib import Path
from typing import Any

import click

from ropetp_cli.cli.options import FORMATS, Words
from ropetp_cli.errors import RopeTPError


@click.command()
@click.argument("motion", type=click.Path(path_type=Path))
@click.option("--to", "formats", type=Words(FORMATS), default="bvh", show_default=True,
              help="What to write.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where to write; beside MOTION if not given.")  # fmt: skip
@click.option("--up", type=click.Choice(["y", "z"]), default="z", show_default=True,
              help="Up axis of an npz (BVH, GLB and FBX are y-up).")  # fmt: skip
@click.option("--layout", type=click.Choice(["smpl", "amass"]), default="smpl", show_default=True,
              help="amass gives an npz SMPL-H's 156 pose columns.")  # fmt: skip
@click.option("--body", metavar="FILE", help="The licensed SMPL file an AMASS motion belongs to.")
def command(
    motion: Path, formats: tuple[str, ...], out: Path | None, up: str, layout: str, body: str | None
) -> None:
    """Convert MOTION, one of our npz files or any AMASS npz.

    Blender keeps its scene at 24 frames a second when it imports a BVH: tick "Update Scene FPS".
    FBX needs Blender's module: pip install ropetp[fbx].
    """
    from ropetp_cli import exchange
    from ropetp_cli.files import writable_directory

    if out is not None:
        writable_directory(out)
    targets = [(out or motion.parent) / f"{motion.stem}.{suffix}" for suffix in formats]
    if any(target.exists() and target.samefile(motion) for target in targets if motion.exists()):
        raise click.UsageError(f"{motion} would be replaced by its own copy; name another -o DIR")
    loaded = exchange.read(motion, **({"body": _load_body(body)} if body else {}))
    options: dict[str, dict[str, Any]] = {".npz": {"up": up, "layout": layout}}
    failures = []
    for target in targets:
        try:
            click.echo(exchange.write(loaded, target, **options.get(target.suffix, {})))
        except RopeTPError as error:
            failures.append(str(error))
    if failures:
        raise RopeTPError("; ".join(failures))


def _load_body(name: str) -> Any:
    from ropetp_cli.body.model import load_body

    return load_body(name)
