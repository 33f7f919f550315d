"""What other programs read in our files: python scripts/format_table.py MOTION.npz

Writes MOTION in every format and reads each back with whatever of these is installed: Blender's
module (bpy, in this Python or in --blender's), ufbx, bvhio, bvhsdk, trimesh, a Chromium for the
viewer, and AMASS's readers' rules. Prints the largest distance of any joint in any frame from the
npz's, mm, and the rate the reader found; then processor seconds and MB per 1,000 frames of every
format.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation

from ropetp_cli import exchange
from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix, forward_kinematics
from ropetp_cli.body.skeleton import JOINTS, NUM_JOINTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange.npz import save_motion
from ropetp_cli.exchange.resample import resampled
from ropetp_cli.motion import Motion
from ropetp_cli.preview.viewer import write_viewer

CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --use-gl=angle --use-angle=swiftshader"
    " --enable-unsafe-swiftshader --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --window-size=320,240"
    " --virtual-time-budget=1000 --dump-dom"
).split()
Read = tuple[float, np.ndarray]  # frames a second; joints [N, 24, 3] m, y up
IN_BLENDER = """
import json, sys
import bpy
source, fps, count, target = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
if source.endswith(".bvh"):
    bpy.ops.import_anim.bvh(filepath=source, update_scene_fps=True)
elif source.endswith(".fbx"):
    bpy.ops.import_scene.fbx(filepath=source)
else:
    bpy.ops.import_scene.gltf(filepath=source)
rate = scene.render.fps / scene.render.fps_base
figure = next(item for item in bpy.data.objects if item.type == "ARMATURE")
first = figure.animation_data.action.frame_range[0]
last = figure.animation_data.action.frame_range[1]
found = (count - 1) / (last - first) * rate if last > first else 0.0
frames = []
for index in range(count):
    at = first + (last - first) * index / max(count - 1, 1)
    scene.frame_set(int(at), subframe=at - int(at))
    place = {b.name: figure.matrix_world @ b.matrix.translation for b in figure.pose.bones}
    frames.append({name: [p.x, p.z, -p.y] for name, p in place.items()})
json.dump({"fps": found, "frames": frames}, open(target, "w"))
"""
IN_BROWSER = """<script>
const frames = [];
for (let index = 0; index < COUNT; index++) {
  frames.push(ropetp.joints(PERSON, START + index / FPS));
}
const answer = document.createElement("pre");
answer.id = "answer";
answer.textContent = JSON.stringify(frames);
document.body.append(answer);
</script></body>"""


def named(frames: list[dict[str, list[float]]]) -> np.ndarray:
    return np.array([[frame[name] for name in JOINTS] for frame in frames])


def by_blender(python: str) -> Callable[[Path, Motion], Read]:
    def read(path: Path, motion: Motion) -> Read:
        target = path.with_suffix(".json")
        words = [str(path), str(motion.fps), str(len(motion)), str(target)]
        done = subprocess.run(
            [python, "-c", IN_BLENDER, *words], capture_output=True, text=True, cwd=path.parent
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise ImportError("no bpy" if "No module" in done.stderr else str(last))
        told = json.loads(target.read_text())
        return told["fps"], named(told["frames"])

    return read


def by_ufbx(path: Path, motion: Motion, names: Sequence[str] = JOINTS) -> Read:
    """Node by node: the binding crashes now and then when it frees a whole posed scene."""
    ufbx = importlib.import_module("ufbx")
    scene = ufbx.load_file(str(path))
    unit, stack, nodes = scene.settings.unit_meters, scene.anim_stacks[0], list(scene.nodes)
    joints = np.empty((len(motion), len(names), 3))
    for index in range(len(motion)):
        world: dict[str, np.ndarray] = {}
        for node in nodes:  # parents come first
            local = np.eye(4)
            told = ufbx.evaluate_transform(stack.anim, node, stack.time_begin + index / motion.fps)
            turn, scale, place = told.rotation, told.scale, told.translation
            local[:3, :3] = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
            local[:3, :3] *= [scale.x, scale.y, scale.z]
            local[:3, 3] = [place.x, place.y, place.z]
            world[node.name] = world[node.parent.name] @ local if node.parent else local
        joints[index] = [world[name][:3, 3] * unit for name in names]
    return (len(motion) - 1) / (stack.time_end - stack.time_begin), joints


def by_bvhio(path: Path, motion: Motion) -> Read:
    bvhio = importlib.import_module("bvhio")
    rate = 1 / bvhio.readAsBvh(str(path)).FrameTime
    root, frames = bvhio.readAsHierarchy(str(path)), []
    for index in range(len(motion)):
        root.loadPose(index)
        frames.append({joint.Name: list(joint.PositionWorld) for joint, _, _ in root.layout()})
    return rate, named(frames)


def by_bvhsdk(path: Path, motion: Motion) -> Read:
    bvhsdk = importlib.import_module("bvhsdk")
    with contextlib.redirect_stdout(None):
        animation = bvhsdk.ReadFile(str(path))
    joints = {joint.name: joint for joint in animation.getlistofjoints()}
    frames = [
        {name: list(joint.getPosition(index)) for name, joint in joints.items()}
        for index in range(len(motion))
    ]
    return 1 / animation.frametime, named(frames)


def by_trimesh(path: Path, motion: Motion) -> Read:
    """trimesh knows no animation: the bind pose's joints stand for the skeleton."""
    trimesh = importlib.import_module("trimesh")
    graph = trimesh.load(path).graph
    rest = exchange.rest_joints(motion)
    bind = np.array([graph.get(name)[0][:3, 3] for name in JOINTS])
    # As far from the npz as the bones' lengths: shown in every frame alike.
    return float("nan"), motion.joints + (bind - rest)


def by_amass_rules(path: Path, motion: Motion) -> Read:
    """aitviewer's way: poses[:, :66], trans, betas[:10], mocap_framerate, and z is up."""
    with np.load(path) as file:
        poses = file["poses"][:, :66].astype(float).reshape(-1, 22, 3)
        poses = np.pad(poses, ((0, 0), (0, 2), (0, 0)))
        rest = load_body().rest_joints(file["betas"][:10].astype(float))
        z_up = forward_kinematics(axis_angle_to_matrix(poses), rest, file["trans"].astype(float))
        rate = float(file["mocap_framerate"])
    joints = np.stack([z_up[..., 0], z_up[..., 2], -z_up[..., 1]], axis=-1)
    return rate, joints


def by_chromium(path: Path, motion: Motion) -> Read:
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None:
        raise ImportError("no Chromium")
    told = {"COUNT": len(motion), "START": motion.timestamps[0], "FPS": motion.fps,
            "PERSON": motion.person}  # fmt: skip
    names = r"\b(COUNT|START|FPS|PERSON)\b"
    probe = re.sub(names, lambda found: str(float(told[found[0]])), IN_BROWSER)
    page = path.with_name("probe.html")
    page.write_text(path.read_text().replace("</body>", probe))
    done = subprocess.run(
        [browser, *CHROMIUM_FLAGS, f"--user-data-dir={path.parent / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    frames = json.loads(re.search(r'<pre id="answer">(.*?)</pre>', done.stdout)[1])
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text())[1])
    return data["people"][0]["fps"], np.array(frames)


def read_back(motion: Motion, folder: Path, python: str) -> Table:
    """Write every format into ``folder`` and let every reader say what it finds."""
    table = Table("file", "reader", "largest joint difference, mm", "rate read")
    began = time.perf_counter()
    even = resampled(motion, 30.0)
    save_motion(even, folder / "amass.npz", layout="amass")
    exchange.write(motion, folder / "motion.bvh")
    exchange.write(motion, folder / "motion.glb")
    with contextlib.suppress(RopeTPError):
        exchange.write(motion, folder / "motion.fbx", python=python)
    write_viewer(None, [motion], load_body(), folder / "viewer.html")
    blender = by_blender(python)
    jobs = [
        ("motion.bvh", "Blender", blender), ("motion.bvh", "bvhio", by_bvhio),
        ("motion.bvh", "bvhsdk", by_bvhsdk), ("motion.glb", "Blender", blender),
        ("motion.glb", "trimesh (bind pose)", by_trimesh), ("motion.fbx", "Blender", blender),
        ("motion.fbx", "ufbx", by_ufbx), ("amass.npz", "aitviewer's rules", by_amass_rules),
        ("viewer.html", "Chromium", by_chromium),
    ]  # fmt: skip
    for name, reader, read in jobs:
        truth = even if name == "amass.npz" else motion
        joints = slice(0, 22 if name == "amass.npz" else NUM_JOINTS)  # its hands rest
        print(f"{time.perf_counter() - began:6.1f} s  {name}: {reader}", file=sys.stderr)
        try:
            rate, found = read(folder / name, truth)
        except (ImportError, FileNotFoundError) as error:
            table.add_row(name, reader, f"not read: {error}", "")
            continue
        worst = 1000 * np.linalg.norm(found - truth.joints, axis=-1)[:, joints].max()
        table.add_row(name, reader, f"{worst:.3f}", "-" if np.isnan(rate) else f"{rate:.4f}")
    return table


def speed(motion: Motion, folder: Path, python: str) -> Table:
    """Processor seconds, Blender's among them, and MB per 1,000 frames, of a motion played on
    until it has that many."""
    copies = -(-1000 // len(motion))
    fields = {
        name: np.concatenate([getattr(motion, name)] * copies)[:1000]
        for name in ("poses", "trans", "joints", "boxes", "confidence", "contacts", "joints2d",
                     "camera_poses", "camera_trans", "camera_rotation")
    }  # fmt: skip
    long = Motion(
        fps=motion.fps, betas=motion.betas, body=motion.body, camera_focal=motion.camera_focal,
        camera_center=motion.camera_center, **fields,
    )  # fmt: skip
    body = load_body()
    writers = {
        "npz": lambda path: exchange.write(long, path),
        "npz, AMASS": lambda path: exchange.write(long, path, layout="amass"),
        "bvh": lambda path: exchange.write(long, path),
        "glb": lambda path: exchange.write(long, path),
        "fbx": lambda path: exchange.write(long, path, python=python),
        "html": lambda path: write_viewer(None, [long], body, path),
    }
    table = Table("format", "processor s per 1,000 frames", "MB per 1,000 frames")
    for name, write in writers.items():
        path = folder / f"long.{name[:3].strip()}" if name != "html" else folder / "long.html"
        began = sum(os.times()[:4])
        try:
            write(path)
        except RopeTPError as error:
            table.add_row(name, str(error), "")
            continue
        spent = sum(os.times()[:4]) - began
        table.add_row(name, f"{spent:.2f}", f"{path.stat().st_size / 1e6:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("motion", type=Path)
    parser.add_argument("--blender", default=sys.executable, help="a Python that has bpy")
    told = parser.parse_args()
    motion = exchange.read(told.motion)
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        console.print(read_back(motion, Path(folder), told.blender))
        console.print(speed(motion, Path(folder), told.blender))


if __name__ == "__main__":
    main()
