"""Motion files. One module a format behind one registry keyed by suffix.

A format's module is imported when a file of it is written or read. Writers take
``(motion, path, **options)``; each replaces its file in one step, so that a stopped run leaves
either the old file or the whole new one.
"""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ropetp_cli.body.rotations import local_to_global
from ropetp_cli.body.skeleton import PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.motion import Motion

#: Suffix -> name of the function that writes it, as ``module:function``.
_WRITERS = {
    ".npz": "ropetp_cli.exchange.npz:save_motion",
    ".bvh": "ropetp_cli.exchange.bvh:save_bvh",
    ".glb": "ropetp_cli.exchange.glb:save_glb",
    ".fbx": "ropetp_cli.exchange.fbx:save_fbx",
}
#: Suffix -> the options its writer takes, of those a command may be given.
_OPTIONS = {
    ".npz": ("up", "layout"),
    ".bvh": ("skeleton",),
    ".glb": ("skeleton", "body", "with_mesh"),
    ".fbx": ("skeleton",),
}
NO_BLENDER = (
    "FBX needs Blender's module: pip install 'ropetp[fbx]' (Python 3.11); "
    "BVH and GLB load in every FBX tool"
)
LICENSED = (
    "the skeleton alone, because SMPL's licence does not let its mesh be passed on; "
    "--with-mesh puts it in for your own use"
)
_READERS = {".npz": "ropetp_cli.exchange.npz:load_motion"}


def _load(target: str) -> Callable:
    module, function = target.split(":")
    return getattr(importlib.import_module(module), function)


def _pick(table: dict[str, str], path: Path, verb: str) -> Callable:
    if path.suffix.lower() not in table:
        known = ", ".join(suffix[1:] for suffix in table)
        raise RopeTPError(f"{path}: cannot {verb} this kind of file; known are {known}")
    return _load(table[path.suffix.lower()])


def writers() -> tuple[str, ...]:
    """The suffixes that can be written, with their dots."""
    return tuple(_WRITERS)


def options_for(suffix: str, **options: Any) -> dict[str, Any]:
    """Those of ``options`` that the writer of ``suffix`` takes."""
    return {name: options[name] for name in _OPTIONS[suffix] if name in options}


def check_formats(names: Iterable[str]) -> None:
    """RopeTPError for a format that nobody writes or that cannot be written here, before work
    is done for it."""
    for name in names:
        _pick(_WRITERS, Path(f"motion.{name}"), "write")
        if name == "fbx" and importlib.util.find_spec("bpy") is None:
            raise RopeTPError(NO_BLENDER)


def targets(
    motions: Sequence[Motion],
    names: Sequence[str],
    folder: Path,
    formats: Iterable[str],
    one_glb: bool = False,
) -> list[tuple[Motion | list[Motion], Path]]:
    """What to write where: each motion under its name in every format; with ``one_glb`` the GLB
    is one file, ``people.glb``, with everybody in it."""
    formats = tuple(formats)
    jobs: list[tuple[Motion | list[Motion], Path]] = [
        (motion, folder / f"{name}.{suffix}")
        for motion, name in zip(motions, names, strict=True)
        for suffix in formats
        if not (one_glb and suffix == "glb")
    ]
    if one_glb and "glb" in formats:
        jobs.append((list(motions), folder / "people.glb"))
    return jobs


def write(motion: Motion | list[Motion], path: str | Path, **options) -> Path:
    """Write ``motion`` in the format of ``path``'s suffix and return the path.

    A GLB takes a list of motions, too. ``options`` go to the format's own writer. Raises
    RopeTPError for a suffix nobody writes and for a place that cannot be written.
    """
    path = Path(path)
    _pick(_WRITERS, path, "write")(motion, path, **options)
    return path


def read(path: str | Path, **options) -> Motion:
    """Read the motion in ``path``, y up. Raises RopeTPError for anything that is not one."""
    path = Path(path)
    return _pick(_READERS, path, "read")(path, **options)


def may_travel(label: str) -> bool:
    """Whether the mesh of the body called ``label`` may be passed on: the embedded one's may."""
    from ropetp_cli.body.model import load_body

    return label == load_body().label


def rest_joints(motion: Motion) -> np.ndarray:
    """The person's own skeleton in the T-pose, [24, 3] m, taken from the motion itself.

    Joints and rotations together give every bone: offset = R_parent^T (joint - parent), the
    median over the frames. So files are right for whichever body the motion was made with,
    installed here or not. The pelvis lies at ``joints[:, 0] - trans``.
    """
    turned = local_to_global(motion.rotations)
    rest = np.zeros((len(PARENTS), 3))
    rest[0] = np.median(motion.joints[:, 0] - motion.trans, axis=0)
    for joint, parent in enumerate(PARENTS[1:], start=1):
        bone = motion.joints[:, joint] - motion.joints[:, parent]
        offset = np.einsum("nji,nj->ni", turned[:, parent], bone)
        rest[joint] = rest[parent] + np.median(offset, axis=0)
    return rest
