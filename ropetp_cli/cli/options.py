"""Options that ``capture`` and ``batch`` share, and the checks that need no heavy import."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FORMATS = ("npz", "bvh", "glb", "fbx")
LAYOUTS = ("smpl", "amass")
SKELETONS = ("smpl", "mixamo", "ue5", "unity", "rigify")
PREVIEWS = (
    "none", "overlay", "world", "world-fixed", "side-by-side", "viewer", "paths", "sheet",
)  # fmt: skip


class Words(click.ParamType):
    """A comma-separated list of known words."""

    name = "list"

    def __init__(self, known: tuple[str, ...]):
        self.known = known

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return ",".join(self.known)

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = tuple(dict.fromkeys(word.strip().lower() for word in value.split(",")))
        for word in words:
            if word not in self.known:
                self.fail(f"{word!r} is not one of {', '.join(self.known)}", param, ctx)
        return words


class Heights(click.ParamType):
    """``1.82``, of everybody, or ``1=1.82,2=1.65``, by id: pairs of id (0: everybody else), m."""

    name = "heights"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[int, float], ...]:
        if isinstance(value, tuple):
            return value
        found: dict[int, float] = {}
        for word in value.split(","):
            who, _, height = word.rpartition("=")
            try:
                found[int(who) if who else 0] = float(height)
            except ValueError:
                self.fail(f"{word!r} is neither metres nor ID=metres, as 1=1.82", param, ctx)
        if not all(0.5 < height < 2.8 for height in found.values()):
            self.fail(f"{value}: expected metres, such as 1.82", param, ctx)
        return tuple(sorted(found.items()))


POSITIVE = click.FloatRange(min=0, min_open=True)

#: What ``export`` may be told of the files, too.
FILE_OPTIONS = [
    click.option("--skeleton", type=click.Choice(SKELETONS), default="smpl", show_default=True,
                 help="Whose joint names BVH, GLB and FBX carry."),
    click.option("--with-mesh/--no-mesh", default=None,
                 help="The body's surface in GLB and viewer. Without either: the embedded "
                 "body's yes, a licensed SMPL body's no."),
    click.option("--one-glb", is_flag=True,
                 help="One GLB with everybody in step, people.glb, instead of one each."),
]  # fmt: skip

#: What ``pose`` may be told, too.
FOCAL = [
    click.option("--focal-px", type=POSITIVE, help="Focal length, px."),
    click.option("--focal-mm", type=POSITIVE, help="Focal length, mm, 35 mm equivalent."),
]
QUICK = click.option("--quick", is_flag=True, help="Look at each crop once, not also in a mirror: "
                     "half the time, a little less right.")  # fmt: skip

_OPTIONS = [
    click.option("--person", default="all", show_default=True, metavar="all|largest|ID[,ID]",
                 help="Whom to capture; ids as `ropetp tracks` shows them."),
    click.option("--height", type=Heights(), default=(), metavar="M|ID=M[,ID=M]",
                 help="How tall people are, m, where you know: no video tells a tall person far "
                 "away from a short one near by."),
    click.option("--format", "formats", type=Words(FORMATS), default="npz,bvh",
                 show_default=True, help="Files to write for each person."),
    click.option("--camera", type=click.Choice(["auto", "static", "moving"]), default="auto",
                 show_default=True, help="auto tells from the background whether it turns or "
                 "travels; static: it stands still; moving: it may travel."),
    *FOCAL,
    click.option("--start", type=click.FloatRange(min=0), help="Begin here, s."),
    click.option("--end", type=POSITIVE, help="End here, s."),
    click.option("--fps", type=click.FloatRange(min=0, min_open=True, max=1000),
                 help="Output rate; the video's true average if not given."),
    click.option("--steps", type=click.IntRange(1, 1000), default=100, show_default=True,
                 help="DDIM steps of the path."),
    click.option("--seed", type=int, default=0, show_default=True,
                 help="The same seed gives the same file."),
    QUICK,
    click.option("--path", type=click.Choice(["auto", "diffusion"]), default="auto",
                 show_default=True, help="auto keeps the path to where a camera that stays in "
                 "its place saw the person; diffusion, as in the paper, uses the poses alone."),
    click.option("--up", type=click.Choice(["y", "z"]), default="z", show_default=True,
                 help="Up axis of the npz (BVH and GLB are y-up)."),
    click.option("--npz-layout", type=click.Choice(LAYOUTS), default="smpl", show_default=True,
                 help="amass: an npz of 156 columns, z up, as AMASS's readers want it; all files "
                 "then have 30 frames/s unless --fps."),
    *FILE_OPTIONS,
    click.option("--physics/--no-physics", default=True, show_default=True,
                 help="Clean the motion in a physics simulation."),
    click.option("--preview", "previews", type=Words(PREVIEWS), default="overlay,viewer",
                 show_default=True, help="Pictures to draw."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto",
                 show_default=True),
    click.option("--body", metavar="FILE", help="A licensed SMPL file, or `smpl` for the one "
                 "that `ropetp setup body` installed."),
    click.option("--weights", type=click.Path(path_type=Path), metavar="DIR",
                 help="Weights other than those that ship."),
    click.option("--detector", metavar="FILE", help="Other ultralytics detector weights."),
    click.option("--batch-size", type=click.IntRange(1, 1024), default=16, show_default=True,
                 help="Crops at a time."),
]  # fmt: skip


def capture_options(command: Callable) -> Callable:
    """Adds the options of :class:`ropetp_cli.pipeline.CaptureOptions` to a command."""
    return _with(command, _OPTIONS)


def file_options(command: Callable) -> Callable:
    """Adds the options of the files that ``capture`` and ``export`` write."""
    return _with(command, FILE_OPTIONS)


def focal_options(command: Callable) -> Callable:
    """Adds the focal length."""
    return _with(command, FOCAL)


def _with(command: Callable, options: list[Callable]) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command


def check_span(start: float | None, end: float | None) -> None:
    """--end must come after --start."""
    if start is not None and end is not None and end <= start:
        raise click.BadParameter(f"--end {end} is not after --start {start}")
