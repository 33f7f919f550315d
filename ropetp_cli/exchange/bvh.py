"""BVH: metres, y up, the rest pose a T facing +z, the bones as long as the person's own.

SMPL's rest pose has every joint's axes along the world's, so its local rotations are BVH's as
they stand. Euler angles are intrinsic z, x, y: the yaw of a turning person is the last one and
the singular angle, x at a quarter turn, is the rarest. The root's OFFSET is zero, because
readers disagree on whether its position channels replace or add to it. Frame Time has nine
decimals: fewer turn 30 frames a second into 30.0003.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from ropetp_cli.body.skeleton import JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange import rest_joints
from ropetp_cli.exchange.names import joint_names
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion

ORDER = "ZXY"
#: Where the bones of the last joints end, m from the joint in the rest pose. A zero length
#: makes Blender invent a tail of its own.
END_SITES = {
    "head": (0.0, 0.18, 0.0),
    "left_foot": (0.0, 0.0, 0.07),
    "right_foot": (0.0, 0.0, 0.07),
    "left_hand": (0.09, 0.0, 0.0),
    "right_hand": (-0.09, 0.0, 0.0),
}


class Bvh(NamedTuple):
    """What a BVH file holds, in the file's own unit.

    names [J]; parents [J], -1 for the root; offsets [J, 3] from the parent; positions
    [N, J, 3] from the parent, the offset where a joint has no position channels; rotations
    [N, J, 3, 3] parent-relative; frame_time s.
    """

    names: list[str]
    parents: list[int]
    offsets: np.ndarray
    positions: np.ndarray
    rotations: np.ndarray
    frame_time: float


def save_bvh(motion: Motion, path: str | Path, skeleton: str = "smpl") -> None:
    """Write ``motion`` as BVH, its joints named as ``skeleton`` does. The root channel is the
    pelvis in the y-up world, m."""
    rest = rest_joints(motion)
    offsets = rest - rest[[max(parent, 0) for parent in PARENTS]]
    order: list[int] = []
    lines = ["HIERARCHY", *_hierarchy(0, offsets, joint_names(skeleton), order)]
    angles = continuous_euler(motion.rotations)[:, order]
    rows = np.concatenate([motion.joints[:, 0], angles.reshape(len(motion), -1)], axis=1)
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1.0 / motion.fps:.9f}"]
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
        np.savetxt(file, rows, fmt="%.6f")


def _hierarchy(
    joint: int, offsets: np.ndarray, names: tuple[str, ...], order: list[int]
) -> list[str]:
    """The lines of ``joint`` and all below it; ``order`` collects the joints as they come."""
    order.append(joint)
    kind = "ROOT" if joint == 0 else "JOINT"
    rotations = " ".join(f"{axis}rotation" for axis in ORDER)
    channels = f"6 Xposition Yposition Zposition {rotations}" if joint == 0 else f"3 {rotations}"
    inside = [_offset(offsets[joint]), f"CHANNELS {channels}"]
    children = [child for child, parent in enumerate(PARENTS) if parent == joint]
    for child in children:
        inside += _hierarchy(child, offsets, names, order)
    if not children:
        inside += ["End Site", "{", "\t" + _offset(END_SITES[JOINTS[joint]]), "}"]
    return [f"{kind} {names[joint]}", "{", *("\t" + line for line in inside), "}"]


def _offset(vector: np.ndarray | tuple[float, float, float]) -> str:
    return "OFFSET " + " ".join(f"{value:.6f}" for value in vector)


def continuous_euler(rotations: np.ndarray) -> np.ndarray:
    """Euler angles without jumps, degrees: [N, J, 3, 3] -> [N, J, 3] in the file's order.

    Every rotation has two sets of angles, each up to whole turns. From frame to frame the one
    nearest to the last is taken, so that programs which interpolate the channels do not spin.
    """
    count, joints = rotations.shape[:2]
    flat = Rotation.from_matrix(rotations.reshape(-1, 3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # at x = 90 degrees any split of z and y is right
        first = flat.as_euler(ORDER, degrees=True).reshape(count, joints, 3)
    second = first * [1.0, -1.0, 1.0] + 180.0
    out = first.copy()
    for frame in range(1, count):
        last = out[frame - 1]
        near, far = (
            angles + 360.0 * np.round((last - angles) / 360.0)
            for angles in (first[frame], second[frame])
        )
        farther = np.abs(near - last).sum(-1) > np.abs(far - last).sum(-1)
        out[frame] = np.where(farther[:, None], far, near)
    return out


def read_bvh(path: str | Path) -> Bvh:
    """Read any BVH: channels in any order, positions on any joint.

    Raises RopeTPError, naming the file, when it is not one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise RopeTPError(f"{path}: cannot be read as BVH ({reason})") from error
    try:
        return _parse(text)
    except (ValueError, IndexError, KeyError, TypeError, StopIteration) as error:
        raise RopeTPError(
            f"{path}: not a whole BVH file ({str(error) or 'it ends early'})"
        ) from error


def _parse(text: str) -> Bvh:
    head, found, tail = text.partition("MOTION")
    if not found:
        raise ValueError("no MOTION section")
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[list[str]] = []
    open_joints: list[int | None] = []  # None stands for an end site
    words = iter(head.split())
    for word in words:
        if word in ("ROOT", "JOINT"):
            if open_joints and open_joints[-1] is None:
                raise ValueError("a joint inside an end site")
            parents.append(open_joints[-1] if open_joints else -1)
            names.append(next(words))
            open_joints.append(len(names) - 1)
            offsets.append([0.0, 0.0, 0.0])
            channels.append([])
        elif word == "End":
            open_joints.append(None)
        elif word == "OFFSET":
            offset = [float(next(words)) for _ in range(3)]
            if not np.isfinite(offset).all():
                raise ValueError("an offset is not finite")
            if open_joints[-1] is not None:
                offsets[open_joints[-1]] = offset
        elif word == "CHANNELS":
            channels[open_joints[-1]] = [next(words) for _ in range(int(next(words)))]
        elif word == "}":
            open_joints.pop()
    body = tail.split()
    if body[0] != "Frames:" or body[2:4] != ["Frame", "Time:"]:
        raise ValueError("no Frames and Frame Time")
    count, frame_time = int(body[1]), float(body[4])
    width = sum(len(kinds) for kinds in channels)
    rows = np.array(body[5:], dtype=np.float64)
    if rows.size != count * width:
        raise ValueError(f"{rows.size} numbers, expected {count} frames of {width}")
    if not (np.isfinite(rows).all() and np.isfinite(frame_time) and frame_time > 0 < count):
        raise ValueError("a number is not finite, or there are no frames")
    if width < len(names):  # arrays would be many times larger than the file
        raise ValueError(f"{len(names)} joints with {width} channels between them")
    rows = rows.reshape(count, width)

    positions = np.tile(np.array(offsets), (count, 1, 1))
    rotations = np.tile(np.eye(3), (count, len(names), 1, 1))
    column = 0
    for joint, kinds in enumerate(channels):
        values = {kind: rows[:, column + k] for k, kind in enumerate(kinds)}
        column += len(kinds)
        for axis, name in enumerate("XYZ"):
            if f"{name}position" in values:
                positions[:, joint, axis] = values[f"{name}position"]
        turns = [kind for kind in kinds if kind.endswith("rotation")]
        if turns:
            angles = np.stack([values[kind] for kind in turns], axis=-1)
            order = "".join(kind[0] for kind in turns)
            rotations[:, joint] = Rotation.from_euler(order, angles, degrees=True).as_matrix()
    return Bvh(names, parents, np.array(offsets), positions, rotations, frame_time)
