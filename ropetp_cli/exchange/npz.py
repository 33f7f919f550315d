"""The npz of DESIGN section 5, in AMASS's layout, and any other AMASS file.

AMASS worlds are z up; ours are y up. Both ways the whole motion is turned: root rotation,
translation, joints and the camera's rotation.
"""

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ropetp_cli import __version__
from ropetp_cli.arrays import open_npz
from ropetp_cli.body.rotations import axis_angle_to_matrix, forward_kinematics
from ropetp_cli.body.skeleton import NUM_BETAS
from ropetp_cli.errors import RopeTPError, first_line
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion

if TYPE_CHECKING:
    from ropetp_cli.body.model import BodyData

#: y up -> z up: a quarter turn about x, so that (x, y, z) becomes (x, -z, y).
Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
#: Columns of the body without hands: 22 joints.
BODY_COLUMNS = 66
#: SMPL-H has 52 joints and 16 shapes; that is what AMASS readers expect.
AMASS_COLUMNS, AMASS_BETAS = 156, 16
#: A whole number: the Blender add-ons for SMPL cut the rate to one.
AMASS_FPS = 30.0
RATE_KEYS = ("mocap_framerate", "mocap_frame_rate", "fps")

#: Key in the file -> field of Motion, for what a file may lack.
_OPTIONAL = {
    "timestamps": "timestamps",
    "frame_index": "frame_index",
    "boxes": "boxes",
    "confidence": "confidence",
    "joint_confidence": "joint_confidence",
    "contacts": "contacts",
    "joints2d": "joints2d",
    "camera_poses": "camera_poses",
    "camera_trans": "camera_trans",
    "camera_R": "camera_rotation",
    "camera_center": "camera_center",
}
_UNREADABLE = (
    OSError, ValueError, KeyError, IndexError, EOFError, TypeError, MemoryError, OverflowError,
    RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def save_motion(motion: Motion, path: str | Path, up: str = "z", layout: str = "smpl") -> None:
    """Write ``motion`` to ``path``.

    ``up`` is the world's up axis in the file, 'z' (AMASS) or 'y'. ``layout`` 'smpl' writes
    ``poses`` [N, 72]; 'amass' writes SMPL-H's [N, 156] with the hands at rest and 16 betas, for
    readers that count columns. Floats are 32 bits wide, timestamps 64. The same motion gives
    the same bytes.
    """
    if up not in ("y", "z"):
        raise RopeTPError(f"{path}: the up axis is {up!r}, expected 'y' or 'z'")
    if layout not in ("smpl", "amass"):
        raise RopeTPError(f"{path}: the layout is {layout!r}, expected 'smpl' or 'amass'")
    check_layout(layout, up)
    if up == "z":
        motion = motion.turned(Z_UP)
    poses, betas = motion.poses, motion.betas
    if layout == "amass":
        body = poses[:, :BODY_COLUMNS]
        poses = np.pad(body, ((0, 0), (0, AMASS_COLUMNS - BODY_COLUMNS)))
        betas = np.pad(betas, (0, AMASS_BETAS - NUM_BETAS))
    floats = {
        "poses": poses,
        "trans": motion.trans,
        "betas": betas,
        "joints": motion.joints,
        "boxes": motion.boxes,
        "confidence": motion.confidence,
        "joint_confidence": motion.joint_confidence,
        "contacts": motion.contacts,
        "joints2d": motion.joints2d,
        "camera_poses": motion.camera_poses,
        "camera_trans": motion.camera_trans,
        "camera_focal": motion.camera_focal,
        "camera_center": motion.camera_center,
        "camera_R": motion.camera_rotation,
    }
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in floats.items()}
    arrays |= {
        "mocap_framerate": np.float64(motion.fps),
        "mocap_frame_rate": np.float64(motion.fps),
        "timestamps": np.asarray(motion.timestamps, dtype=np.float64),
        "frame_index": np.asarray(motion.frame_index, dtype=np.int64),
        "person": np.int64(motion.person),
        "gender": np.str_(motion.gender),
        "up_axis": np.str_(up),
        "body": np.str_(motion.body),
        "ropetp_version": np.str_(__version__),
    }
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def check_layout(layout: str, up: str) -> None:
    """RopeTPError for an AMASS file that would not be z up."""
    if layout == "amass" and up != "z":
        raise RopeTPError("the AMASS layout is z up; leave --up y out")


def load_motion(path: str | Path, body: "BodyData | None" = None) -> Motion:
    """Read a motion: ours or any AMASS npz. The world of the answer is y up.

    ``poses`` may have SMPL's 72 columns, SMPL-H's 156 or SMPL-X's 165 (of which the 22 body
    joints are kept and the hands rest); a missing ``up_axis`` means z, as AMASS has it. A file
    without ``joints`` gets them by forward kinematics: on ``body`` with the file's betas, or, if
    None, on the embedded body in its mean shape, because AMASS's betas belong to the licensed
    SMPL and mean nothing on another body. Raises RopeTPError, naming the file, for whatever is
    not a motion.
    """
    path = Path(path)
    if not path.is_file():
        raise RopeTPError(f"{path}: no such file")
    try:
        with open_npz(path) as archive:
            return _read(archive, body)
    except RopeTPError as error:
        raise RopeTPError(f"{path}: not a motion file: {error}") from error
    except _UNREADABLE as error:
        raise RopeTPError(f"{path}: not a readable npz: {first_line(error)}") from error


def _numbers(archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    if key not in archive:
        raise RopeTPError(f"it has no {key!r}")
    value = archive[key]
    if value.dtype.kind not in "fiu":
        raise RopeTPError(f"{key!r} does not hold numbers")
    if not np.isfinite(value).all():
        raise RopeTPError(f"{key!r} holds a number that is not finite")
    return value if value.dtype.kind in "iu" else value.astype(np.float64)


def _text(archive: np.lib.npyio.NpzFile, key: str, default: str) -> str:
    if key not in archive:
        return default
    value = archive[key].item()
    return value.decode() if isinstance(value, bytes) else str(value)


def _scalar(archive: np.lib.npyio.NpzFile, key: str, default: float) -> float:
    if key not in archive:
        return default
    value = _numbers(archive, key)
    if value.size != 1:
        raise RopeTPError(f"{key!r} holds {value.size} numbers, expected one")
    return value.item()


def _rate(archive: np.lib.npyio.NpzFile) -> float:
    for key in RATE_KEYS:
        if key in archive:
            return float(_scalar(archive, key, 0.0))
    raise RopeTPError(f"it names no frame rate ({', '.join(RATE_KEYS)})")


def _poses(archive: np.lib.npyio.NpzFile) -> np.ndarray:
    poses = _numbers(archive, "poses").astype(np.float64)
    if poses.ndim == 3 and poses.shape[2] == 3:
        poses = poses.reshape(len(poses), -1)
    if poses.ndim != 2 or poses.shape[1] < BODY_COLUMNS or poses.shape[1] % 3:
        wanted = "frames x 72 (SMPL), 156 (SMPL-H) or 165 (SMPL-X)"
        raise RopeTPError(f"'poses' has shape {list(poses.shape)}, expected {wanted}")
    if poses.shape[1] == 72:
        return poses
    return np.pad(poses[:, :BODY_COLUMNS], ((0, 0), (0, 72 - BODY_COLUMNS)))


def _betas(archive: np.lib.npyio.NpzFile) -> np.ndarray:
    if "betas" not in archive:
        return np.zeros(NUM_BETAS)
    betas = np.squeeze(_numbers(archive, "betas")).astype(np.float64)
    if betas.ndim != 1:
        raise RopeTPError(f"'betas' has shape {list(betas.shape)}, expected {NUM_BETAS} numbers")
    return np.pad(betas[:NUM_BETAS], (0, max(0, NUM_BETAS - len(betas))))


def _posed_joints(
    poses: np.ndarray, trans: np.ndarray, betas: np.ndarray, made_with: str, body: "BodyData | None"
) -> np.ndarray:
    if body is None:
        from ropetp_cli.body.model import load_body

        body = load_body()
        betas = betas if made_with == body.label else np.zeros(NUM_BETAS)
    local = axis_angle_to_matrix(poses.reshape(-1, 24, 3))
    return forward_kinematics(local, body.rest_joints(betas), trans)


def _read(archive: np.lib.npyio.NpzFile, body: "BodyData | None") -> Motion:
    up = _text(archive, "up_axis", "z")
    if up not in ("y", "z"):
        raise RopeTPError(f"its up axis is {up!r}, expected 'y' or 'z'")
    poses, trans, betas = _poses(archive), _numbers(archive, "trans"), _betas(archive)
    if trans.shape != (len(poses), 3):
        raise RopeTPError(f"'trans' has shape {list(trans.shape)}, expected {len(poses)} x 3")
    made_with = _text(archive, "body", "")
    if "joints" in archive:
        joints = _numbers(archive, "joints")
    else:
        joints = _posed_joints(poses, trans, betas, made_with, body)
        made_with = made_with or (body.label if body else "")
    motion = Motion(
        poses=poses,
        trans=trans,
        betas=betas,
        fps=_rate(archive),
        joints=joints,
        camera_focal=float(_scalar(archive, "camera_focal", 0.0)),
        gender=_text(archive, "gender", "neutral"),
        body=made_with,
        person=int(_scalar(archive, "person", 1)),
        **{field: _numbers(archive, key) for key, field in _OPTIONAL.items() if key in archive},
    )
    return motion.turned(Z_UP.T) if up == "z" else motion
