"""The viewer: one HTML file with everything in it, opened by any browser without a network.

It holds three.js, the people's bones frame by frame as 16-bit quaternions, and the surface they
move, which the browser skins. A licensed body's surface stays out unless asked for. The video is
not copied in: the page plays the one that lies where it lay when the page was written, or beside
the page.
"""

import base64
import html
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from ropetp_cli import __version__
from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rotations import matrix_to_quaternion
from ropetp_cli.body.skeleton import JOINT_INDEX, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange import LICENSED, may_travel, rest_joints
from ropetp_cli.exchange.glb import four_weights
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion
from ropetp_cli.preview.figure import footprints, person_color
from ropetp_cli.preview.world import look_from
from ropetp_cli.video.reader import VideoReader

WEB = Path(__file__).parent / "web"
POSTER_WIDTH = 480  # px


def write_viewer(
    video: str | Path | None,
    motions: list[Motion],
    body: BodyData,
    out: str | Path,
    start: float | None = None,
    with_mesh: bool | None = None,
) -> Path:
    """Write the page for ``motions``, made with ``body``, to ``out``.

    ``video`` (None: no film in the page) is referred to relative to ``out``, and so is an
    overlay of it in the same directory, which begins at ``start`` s. ``with_mesh`` None embeds
    the surface of a body whose licence lets it travel, True any, False none.
    """
    out = Path(out)
    mesh = may_travel(body.label) if with_mesh is None else with_mesh
    data = scene_data(motions, body, mesh)
    data["title"] = Path(video).name if video else out.stem
    data["films"] = _films(Path(video), out, data["start"], start) if video else []
    data["note"] = "" if mesh or with_mesh is False else LICENSED[0].upper() + LICENSED[1:] + "."
    with atomic_path(out) as temporary:
        temporary.write_text(page(data), encoding="utf-8")
    return out


def scene_data(motions: list[Motion], body: BodyData, with_mesh: bool) -> dict[str, Any]:
    """What the page draws, as JSON: arrays are ``{"kind", "scale", "bytes"}``, base64."""
    mesh = None
    if with_mesh:
        bones, weights = four_weights(body)
        mesh = {
            "faces": _packed(body.faces.astype(np.uint16)),
            "bones": _packed(bones),
            "weights": _packed(_bytes_of_one(weights)),
        }
    return {
        "start": float(min(motion.timestamps[0] for motion in motions)),
        "end": float(max(motion.timestamps[-1] for motion in motions)),
        "view": look_from(motions)[:, 2].tolist(),
        "parents": list(PARENTS),
        "head": JOINT_INDEX["head"],
        "mesh": mesh,
        "people": [_person(motion, body if with_mesh else None) for motion in motions],
    }


def _person(motion: Motion, body: BodyData | None) -> dict[str, Any]:
    quaternions = np.roll(matrix_to_quaternion(motion.rotations), -1, axis=-1)  # xyzw
    way = motion.way
    steps = np.gradient(way, axis=0) if len(way) > 1 else np.zeros_like(way)
    blue, green, red = person_color(motion.person)
    return {
        "id": motion.person,
        "color": f"#{red:02x}{green:02x}{blue:02x}",
        "fps": motion.fps,
        "start": float(motion.timestamps[0]),
        "frames": len(motion),
        "rest": np.round(rest_joints(motion), 5).tolist(),
        "rotations": _packed(np.round(quaternions * 32767).astype(np.int16)),
        "pelvis": _packed(motion.joints[:, 0].astype(np.float32)),
        "contacts": _packed(np.round(255 * np.clip(motion.contacts, 0, 1)).astype(np.uint8)),
        "speeds": _packed((np.linalg.norm(steps, axis=1) * motion.fps).astype(np.float32)),
        "steps": [
            [step.foot, step.first, step.last, *np.round([*step.place, step.heading], 4).tolist()]
            for step in footprints(motion)
        ],
        "vertices": _quantized(body.rest_vertices(motion.betas)) if body else None,
    }


def _packed(values: np.ndarray, scale: float | None = None) -> dict[str, Any]:
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<")))
    encoded = base64.b64encode(little.tobytes()).decode()
    return {"kind": values.dtype.str[1:], "scale": scale, "bytes": encoded}


def _quantized(lengths: np.ndarray) -> dict[str, Any]:
    """Lengths in 16 bits, within 0.03 mm for a person."""
    scale = float(np.abs(lengths).max()) / 32767
    return _packed(np.round(lengths / scale).astype(np.int16), scale)


def _bytes_of_one(weights: np.ndarray) -> np.ndarray:
    """Weights [V, 4] as bytes that add up to 255 in every row."""
    rounded = np.round(255 * weights).astype(int)
    rounded[:, 0] += 255 - rounded.sum(axis=1)
    return rounded.astype(np.uint8)


def _films(video: Path, out: Path, first: float, start: float | None) -> list[dict[str, Any]]:
    """Where the page may find the video, and the overlay drawn beside it."""
    places = [quote(video.name)]
    try:
        places.insert(0, quote(os.path.relpath(video.resolve(), out.parent.resolve())))
    except ValueError:  # another drive
        pass
    films = [
        {
            "name": video.name,
            "places": list(dict.fromkeys(places)),
            "offset": 0.0,
            "poster": _poster(video, first),
        }
    ]
    overlay = out.parent / "overlay.mp4"
    if overlay.is_file():
        poster = _poster(overlay, first - (start or 0.0))
        films.append(
            {"name": overlay.name, "places": [overlay.name], "offset": start or 0.0,
             "poster": poster}
        )  # fmt: skip
    return films


def _poster(video: Path, time: float) -> str:
    """The frame at ``time`` s, small, as a JPEG in a data address; empty if it cannot be read."""
    try:
        with VideoReader(video, max(0.0, time)) as reader:
            frame = next(iter(reader))[2]
    except (RopeTPError, StopIteration):
        return ""
    height = max(1, round(frame.shape[0] * POSTER_WIDTH / frame.shape[1]))
    small = cv2.resize(frame, (POSTER_WIDTH, height), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def page(data: dict[str, Any]) -> str:
    """The whole page around ``data``."""
    parts = {
        "generator": f"RopeTP {__version__}",
        "title": html.escape(data["title"]),
        "style": (WEB / "page.css").read_text(encoding="utf-8"),
        "data": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "three_version": tomllib.loads((WEB / "three.toml").read_text())["three"],
        "three_license": (WEB / "THREE_LICENSE").read_text(encoding="utf-8").strip(),
        "three": (WEB / "three.min.js").read_text(encoding="utf-8").strip(),
        "script": (WEB / "page.js").read_text(encoding="utf-8").strip(),
    }
    template = (WEB / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
