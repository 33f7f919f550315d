"""Renders the example clip: a mannequin walks a curved path before a camera that stands still, pans
after it or travels along with it, or stands so close that the picture cuts the legs off.

usage: python examples/make_rendered_walk.py OUT_DIR [--camera still|pan|travel|close]

Writes ``rendered_walk.mp4`` and ``rendered_walk_truth.npz``, the motion that was rendered
(``rendered_walk_pan.mp4`` and so on for other cameras). The gait is made of curves (joint angles
over the stride, after textbook gait figures); the pelvis goes where the standing foot, which does
not slide, puts it. A moving camera is held by hand: it shakes a little.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from ropetp_cli.body.model import BodyData, load_body
from ropetp_cli.body.rotations import (
    axis_angle_to_matrix,
    forward_kinematics,
    local_to_global,
    matrix_to_axis_angle,
    yaw_matrix,
)
from ropetp_cli.body.skeleton import FEET, JOINT_INDEX
from ropetp_cli.camera.gravity import level_rotation
from ropetp_cli.exchange import write
from ropetp_cli.motion import Camera, Motion
from ropetp_cli.training.synthetic import Figure, Light, draw_outfit
from ropetp_cli.video.writer import VideoWriter

FPS, SECONDS, SIZE = 30.0, 5.0, (960, 540)
FOCAL = 1000.0
STANDING = ("still", "close")  # cameras that keep their place and direction
STRIDE_RATE = 0.92  # strides (two steps) a second
BETAS = np.array([0.5, 0.3, -0.3, 0, 0, 0, 0, 0, 0, 0])


def gait(times: np.ndarray) -> np.ndarray:
    """Parent-relative rotations of a walk on the spot, [N, 24, 3, 3]."""
    pose = np.zeros((len(times), 24, 3))
    phase = 2 * np.pi * STRIDE_RATE * times
    for side, lag, sign in (("left", 0.0, 1.0), ("right", np.pi, -1.0)):
        p = phase + lag  # 0 when this foot strikes
        joint = {n: JOINT_INDEX[f"{side}_{n}"] for n in
                 ("hip", "knee", "ankle", "foot", "shoulder", "elbow", "collar")}  # fmt: skip
        hip = np.radians(9 + 22 * np.cos(p) - 3 * np.cos(2 * p))
        swing = np.exp(2.8 * (np.cos(p - 2 * np.pi * 0.73) - 1))
        load = np.exp(6.0 * (np.cos(p - 2 * np.pi * 0.14) - 1))
        knee = np.radians(4 + 57 * swing + 12 * load)
        push = np.exp(6.0 * (np.cos(p - 2 * np.pi * 0.62) - 1))
        ankle = np.radians(-6 + 22 * push + 4 * np.cos(p))
        pose[:, joint["hip"], 0] = -hip
        pose[:, joint["knee"], 0] = knee
        pose[:, joint["ankle"], 0] = ankle
        pose[:, joint["foot"], 0] = -np.radians(18) * push
        # Arms hang (turned down from the T pose) and swing against the legs.
        pose[:, joint["shoulder"], 2] = -sign * np.radians(76)
        pose[:, joint["collar"], 1] = sign * np.radians(2)
        bend = np.radians(22 - 12 * np.cos(p))
        pose[:, joint["elbow"], 1] = -sign * bend
    rotations = axis_angle_to_matrix(pose)
    for side, lag in (("left", 0.0), ("right", np.pi)):
        swing = np.radians(20) * np.cos(phase + lag)
        turn = axis_angle_to_matrix(np.stack([swing, 0 * swing, 0 * swing], -1))
        index = JOINT_INDEX[f"{side}_shoulder"]
        rotations[:, index] = turn @ rotations[:, index]
    lean = axis_angle_to_matrix(np.tile([np.radians(3), 0.0, 0.0], (len(times), 1)))
    rotations[:, JOINT_INDEX["spine1"]] = lean
    return rotations


def walk(body: BodyData) -> tuple[np.ndarray, np.ndarray]:
    """Rotations with the root in the world [N, 24, 3, 3] and SMPL translations [N, 3]."""
    times = np.arange(int(FPS * SECONDS)) / FPS
    rotations = gait(times)
    heading = np.radians(95) - np.radians(75) * times / SECONDS
    rotations[:, 0] = yaw_matrix(heading) @ rotations[:, 0]
    rest = body.rest_joints(BETAS)
    joints = forward_kinematics(rotations, rest)
    relative = joints - joints[:, :1]
    # The lower of toes and ankles carries the body; what it does not do, the pelvis does.
    carriers = [*FEET, JOINT_INDEX["left_ankle"], JOINT_INDEX["right_ankle"]]
    sole = rest[list(carriers), 1] - body.v_template[:, 1].min()
    height = relative[:, carriers, 1] - sole
    weight = np.exp(-(height - height.min(axis=1, keepdims=True)) / 0.012)
    weight /= weight.sum(axis=1, keepdims=True)
    step = np.diff(relative[:, carriers], axis=0)
    middle = 0.5 * (weight[1:] + weight[:-1])
    pelvis_step = -(step * middle[..., None]).sum(axis=1)
    path = np.concatenate([np.zeros((1, 3)), np.cumsum(pelvis_step, axis=0)])
    path[:, 1] = gaussian_filter1d(-height.min(axis=1), 1.0)
    return rotations, path - rest[0]


def scenery(camera: Camera, eye: np.ndarray, textured: bool) -> np.ndarray:
    """A room with a tiled floor and pictures on the wall, as the camera sees it, BGR float.

    ``textured`` surfaces have something to follow everywhere; plain ones have the grain of a film.
    """
    width, height = SIZE
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(u - camera.center[0]) / camera.focal, (v - camera.center[1]) / camera.focal,
                     np.ones_like(u)], -1) @ camera.rotation[0].T  # fmt: skip
    to_floor = np.where(rays[..., 1] < -1e-3, -eye[1] / np.minimum(rays[..., 1], -1e-3), np.inf)
    to_wall = np.where(rays[..., 2] < -1e-3, (-3.5 - eye[2]) / np.minimum(rays[..., 2], -1e-3),
                       np.inf)  # fmt: skip
    on_floor = to_floor < to_wall
    point = eye + rays * np.minimum(np.minimum(to_floor, to_wall), 60)[..., None]
    tile = (np.floor(point[..., 0] / 0.6) + np.floor(point[..., 2] / 0.6)) % 2
    floor = np.array([0.42, 0.50, 0.56]) + 0.06 * tile[..., None]
    wall = np.array([0.66, 0.68, 0.66]) + 0.02 * np.sin(point[..., :1] * 40)
    picture = (np.abs((point[..., 0] % 2.2) - 1.1) < 0.4) & (np.abs(point[..., 1] - 1.7) < 0.3)
    wall[picture] = np.array([0.55, 0.42, 0.30])
    image = np.where(on_floor[..., None], floor, wall)
    if textured:
        across = np.where(on_floor, point[..., 2], point[..., 1])
        image = image * (1 + 0.25 * stains(point[..., 0], across)[..., None])
    else:
        image = image + np.random.default_rng(1).normal(0, 0.012, image.shape)
    return cv2.GaussianBlur(np.clip(image, 0, 1), (0, 0), 0.7)


def stains(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Blotches of 6 to 50 cm all over a surface, about -1..1, at places [H, W] m."""
    rng = np.random.default_rng(3)
    total = np.zeros(x.shape, np.float32)
    for size in (0.06, 0.2, 0.5):
        grid = rng.normal(0, 0.5, (256, 256)).astype(np.float32)
        at = [np.mod(place / size, 255).astype(np.float32) for place in (x, y)]
        total += cv2.remap(grid, *at, cv2.INTER_LINEAR)
    return total


def cameras(kind: str, pelvis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World-from-camera [N, 3, 3] and the camera's place [N, 3] m for a walk of ``pelvis`` [N, 3].

    ``still`` looks at the middle of the walk, from far enough to see all of it; ``pan`` turns after
    the person, half of the way; ``travel`` also goes along beside the person, half as fast;
    ``close`` stands still where the picture shows people from the hips up, and not all of the walk.
    """
    count = len(pelvis)
    middle = pelvis.mean(axis=0)
    away = max(6.5, 2.5 + np.ptp(pelvis[:, 2]) / 2 + 1.1 * np.ptp(pelvis[:, 0]))
    if kind == "close":
        away = 2.4 + np.ptp(pelvis[:, 2]) / 2 + 0.2 * np.ptp(pelvis[:, 0])
    eye = np.tile([middle[0], 1.5, middle[2] + away], (count, 1))
    down = np.radians(5)
    level = level_rotation(np.array([0.0, -np.cos(down), -np.sin(down)]))
    if kind in STANDING:
        return np.repeat(level[None], count, axis=0), eye
    rng = np.random.default_rng(11)
    if kind == "travel":
        eye[:, [0, 2]] += 0.5 * (pelvis - middle)[:, [0, 2]]
        eye += gaussian_filter1d(rng.normal(0, 0.15, eye.shape), 8, axis=0)
    aim = 0.5 * gaussian_filter1d(pelvis - middle, 10, axis=0) + middle - eye
    shake = gaussian_filter1d(np.radians(rng.normal(0, 2.0, (count, 3))), 5, axis=0)
    yaw = np.arctan2(-aim[:, 0], -aim[:, 2])
    return yaw_matrix(yaw) @ level @ axis_angle_to_matrix(shake), eye


def main(out: Path, kind: str = "still") -> None:
    """The example."""
    body = load_body()
    name = "rendered_walk" if kind == "still" else f"rendered_walk_{kind}"
    rotations, trans = walk(body)
    render(body, rotations, trans, out / f"{name}.mp4", kind)


def render(
    body: BodyData, rotations: np.ndarray, trans: np.ndarray, video_path: Path, kind: str = "still",
    seed: int = 7,
) -> None:  # fmt: skip
    """A motion, parent-relative rotations [N, 24, 3, 3] with the root in the world and SMPL
    translations [N, 3] m, as a video in a room with its truth beside it."""
    rest = body.rest_joints(BETAS)
    joints = forward_kinematics(rotations, rest, trans)
    turns, eyes = cameras(kind, joints[:, 0])

    rng = np.random.default_rng(seed)
    figure = Figure(body)
    outfit = draw_outfit(figure, rng)
    in_camera = rotations.copy()
    in_camera[:, 0] = turns.transpose(0, 2, 1) @ rotations[:, 0]
    pelvis = np.einsum("nji,nj->ni", turns, joints[:, 0] - eyes)
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    field_of_view = 2 * np.arctan(SIZE[1] / 2 / FOCAL)
    to_gl = np.diag([1.0, -1.0, -1.0, 1.0]).astype(np.float32)

    video_path.parent.mkdir(parents=True, exist_ok=True)
    backdrop = None
    with VideoWriter(video_path, SIZE, FPS) as video:
        for index in range(len(rotations)):
            camera = Camera(FOCAL, np.array(SIZE) / 2.0, turns[index : index + 1])
            up = turns[index].T @ np.array([0.0, 1.0, 0.0])
            light = Light(np.array([0.4, -0.7, -0.6]), np.ones(3) * 0.6, up, np.ones(3) * 0.5)
            if backdrop is None or kind not in STANDING:
                backdrop = scenery(camera, eyes[index], textured=kind not in STANDING)
            vertices, _ = figure.pose(in_camera[index], BETAS.astype(np.float32), outfit.puff)
            vertices = vertices + pelvis[index]
            shaded = light.shade(outfit.colours, figure.normals(vertices))[:, ::-1]
            image = np.ascontiguousarray(backdrop, np.float32)
            image = shadow(image, joints[index], camera, eyes[index])
            depth = np.full(SIZE[::-1], 100.0, np.float32)
            image, _ = cv2.triangleRasterize(
                np.ascontiguousarray(vertices, np.float32), figure.faces,
                np.ascontiguousarray(shaded, np.float32), image, depth, to_gl, field_of_view,
                0.1, 100.0, settings,
            )  # fmt: skip
            video.write((np.clip(image, 0, 1) * 255).astype(np.uint8))

    origin = joints[0, 0] * np.array([1.0, 0.0, 1.0])
    truth = Motion(
        poses=matrix_to_axis_angle(rotations).reshape(-1, 72),
        trans=trans - origin,
        betas=BETAS,
        fps=FPS,
        joints=joints - origin,
        camera_poses=matrix_to_axis_angle(in_camera).reshape(-1, 72),
        camera_trans=pelvis - rest[0],
        camera_rotation=turns,
        camera_focal=FOCAL,
        camera_center=np.array(SIZE) / 2.0,
        body=body.label,
    )
    write(truth, video_path.with_name(f"{video_path.stem}_truth.npz"))
    speed = np.linalg.norm(np.diff(joints[:, 0][:, [0, 2]], axis=0), axis=1).mean() * FPS
    facing = local_to_global(rotations)[0, 0, :, 2]
    print(f"{len(rotations)} frames, {speed:.2f} m/s, first facing {np.round(facing, 2)}")


def shadow(image: np.ndarray, joints: np.ndarray, camera: Camera, eye: np.ndarray) -> np.ndarray:
    """A soft blot on the floor under the feet."""
    where = joints[[*FEET]].mean(axis=0) * np.array([1.0, 0.0, 1.0])
    ring = np.linspace(0, 2 * np.pi, 24)
    points = where + 0.32 * np.stack([np.cos(ring), 0 * ring, np.sin(ring)], -1)
    flat = camera.project((points - eye) @ camera.rotation[0])
    mask = np.zeros(image.shape[:2], np.float32)
    cv2.fillPoly(mask, [flat.astype(np.int32)], 1.0)
    return image * (1 - 0.35 * cv2.GaussianBlur(mask, (0, 0), 6))[..., None]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("examples"))
    parser.add_argument("--camera", choices=["still", "pan", "travel", "close"], default="still")
    arguments = parser.parse_args()
    main(arguments.out, arguments.camera)
