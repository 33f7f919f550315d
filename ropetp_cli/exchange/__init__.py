"""Motion files. One module a format behind one registry keyed by suffix.

A format's module is imported when a file of it is written or read. Writers take
``(motion, path, **options)``; each replaces its file in one step, so that a stopped run leaves
either the old file or the whole new one.
"""

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

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
NO_BLENDER = (
    "FBX needs Blender's module: pip install 'ropetp[fbx]' (Python 3.11); "
    "BVH and GLB load in every FBX tool"
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


def check_formats(names: Iterable[str]) -> None:
    """RopeTPError for a format that nobody writes or that cannot be written here, before work
    is done for it."""
    for name in names:
        _pick(_WRITERS, Path(f"motion.{name}"), "write")
        if name == "fbx" and importlib.util.find_spec("bpy") is None:
            raise RopeTPError(NO_BLENDER)


def write(motion: Motion, path: str | Path, **options) -> Path:
    """Write ``motion`` in the format of ``path``'s suffix and return the path.

    ``options`` go to the format's own writer. Raises RopeTPError for a suffix nobody writes and
    for a place that cannot be written.
    """
    path = Path(path)
    _pick(_WRITERS, path, "write")(motion, path, **options)
    return path


def read(path: str | Path, **options) -> Motion:
    """Read the motion in ``path``, y up. Raises RopeTPError for anything that is not one."""
    path = Path(path)
    return _pick(_READERS, path, "read")(path, **options)


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
