"""Pictures: what is drawn lies where the numbers say, at the right time, in the right size."""

import json
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ropetp_cli.body.model import load_body, skin
from ropetp_cli.body.rotations import forward_kinematics
from ropetp_cli.body.skeleton import JOINT_INDEX, JOINTS
from ropetp_cli.cli import main
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange.npz import save_motion
from ropetp_cli.motion import Motion
from ropetp_cli.preview import FILES, check_previews, render_previews
from ropetp_cli.preview.figure import Figure, footprints, person_color
from ropetp_cli.preview.overlay import OverlayPainter, contact_sheet, render_overlay
from ropetp_cli.preview.paths import path_plot
from ropetp_cli.preview.rasterizer import draw_meshes, rasterize
from ropetp_cli.preview.world import WorldPainter
from ropetp_cli.runs import WRITTEN, fingerprint
from ropetp_cli.video.reader import VideoReader
from ropetp_cli.video.writer import VideoWriter

CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
CUBE_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip
LEVEL = np.diag([1.0, -1.0, -1.0])  # a camera looking along the world's -z, upright


@pytest.fixture(scope="module")
def body():
    return load_body()


def walker(body, frames=20, fps=25.0, person=1, start=(0.0, 0.0, 0.0), offset=0.0) -> Motion:
    """Somebody facing the camera of a 320x240 video who glides towards it, standing on y = 0."""
    rest = body.rest_joints(np.zeros(10))
    poses = np.zeros((frames, 72))
    arms = [JOINT_INDEX["left_shoulder"], JOINT_INDEX["right_shoulder"]]
    poses.reshape(frames, 24, 3)[:, arms, 2] = [-1.2, 1.2]
    trans = np.array(start) + np.linspace([0, 0, 0], [0, 0, 1.0], frames)
    trans[:, 1] -= body.v_template[:, 1].min()
    local = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(frames, 24, 3, 3)
    joints = forward_kinematics(local, rest, trans)
    eye = np.array([0.0, 1.0, 5.0])
    seen = (joints - eye) @ LEVEL
    camera_poses = poses.copy()
    camera_poses[:, :3] = Rotation.from_matrix(LEVEL.T).as_rotvec()
    center = np.array([160.0, 120.0])
    return Motion(
        poses=poses, trans=trans, betas=np.zeros(10), fps=fps, joints=joints,
        timestamps=offset + np.arange(frames) / fps,
        joints2d=seen[..., :2] / seen[..., 2:] * 250 + center,
        camera_poses=camera_poses, camera_trans=seen[:, 0] - rest[0],
        camera_rotation=np.tile(LEVEL, (frames, 1, 1)), camera_focal=250.0, camera_center=center,
        body=body.label, person=person,
    )  # fmt: skip


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "grey.mp4"
    with VideoWriter(path, (320, 240), 25.0) as writer:
        for _ in range(24):
            writer.write(np.full((240, 320, 3), 128, np.uint8))
    return path


def silhouette(vertices, faces, focal, center, size) -> np.ndarray:
    mask = np.zeros(size[::-1], bool)
    drawing = rasterize([(vertices, (255, 255, 255))], faces, focal, np.array(center), size)
    if drawing is not None:
        drawing.within(mask)[:] = drawing.mask > 0
    return mask


# --------------------------------------------------------------------------------- rasterizer


@pytest.mark.parametrize("center", [(100, 80), (37.25, 140.5), (190.0, 30.0)])
def test_a_square_covers_its_pixels(center):
    """The front of a cube at a depth of 4 m: its edges are known to the pixel."""
    vertices = CUBE * 0.8 + [0.3, -0.2, 4.8]
    mask = silhouette(vertices, CUBE_FACES, 100.0, center, (220, 170))
    low = (np.array([-0.5, -1.0]) / 4.0) * 100 + center
    high = (np.array([1.1, 0.6]) / 4.0) * 100 + center
    x, y = np.meshgrid(np.arange(220) + 0.5, np.arange(170) + 0.5)
    front = (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])
    edge = (np.abs(x - low[0]) < 1) | (np.abs(x - high[0]) < 1)
    edge |= (np.abs(y - low[1]) < 1) | (np.abs(y - high[1]) < 1)
    assert front.any() and mask[front & ~edge].all()
    drawn_box = np.argwhere(mask)
    back_low = (np.array([-0.5, -1.0]) / 5.6) * 100 + center
    back_high = (np.array([1.1, 0.6]) / 5.6) * 100 + center
    outer_low = np.minimum(low, back_low) - 1
    outer_high = np.maximum(high, back_high) + 1
    assert (drawn_box[:, ::-1] >= outer_low - 1).all() and (drawn_box[:, ::-1] < outer_high).all()


@pytest.mark.parametrize("center", [(320.0, 240.0), (150.0, 300.0), (500.0, 130.0)])
def test_joints_lie_inside_the_silhouette(body, center):
    motion = walker(body)
    local = Rotation.from_rotvec(motion.camera_poses[:1].reshape(-1, 3)).as_matrix()
    vertices = skin(body, local.reshape(1, 24, 3, 3), motion.betas, motion.camera_trans[:1])[0]
    joints = (motion.joints[0] - [0.0, 1.0, 5.0]) @ LEVEL
    pixels = joints[:, :2] / joints[:, 2:] * 500 + center
    mask = silhouette(vertices, body.faces, 500.0, center, (640, 480))
    inside = (pixels > 0).all(1) & (pixels < [640, 480]).all(1)
    assert inside.sum() > 12
    for name, (x, y), counts in zip(JOINTS, pixels, inside, strict=True):
        if counts:
            dot = cv2.circle(np.zeros(mask.shape, np.uint8), (int(x), int(y)), 3, 255, -1)
            assert mask[dot > 0].mean() > 0.5, name


def test_silhouette_agrees_with_filled_triangles(body):
    """Every face filled by an independent drawing, eight times as fine."""
    motion = walker(body)
    local = Rotation.from_rotvec(motion.camera_poses[:1].reshape(-1, 3)).as_matrix()
    vertices = skin(body, local.reshape(1, 24, 3, 3), motion.betas, motion.camera_trans[:1])[0]
    center = np.array([333.3, 201.7])
    mask = silhouette(vertices, body.faces, 480.0, center, (640, 480))
    pixels = (vertices[:, :2] / vertices[:, 2:] * 480 + center) * 8 - 0.5
    fine = np.zeros((480 * 8, 640 * 8), np.uint8)
    for triangle in np.round(pixels[body.faces] * 16).astype(np.int32):
        cv2.fillConvexPoly(fine, triangle, 255, cv2.LINE_8, 4)
    filled = cv2.resize(fine, (640, 480), interpolation=cv2.INTER_AREA) > 127
    assert np.abs(np.argwhere(mask).mean(axis=0) - np.argwhere(filled).mean(axis=0)).max() < 0.35
    assert (mask & filled).sum() / (mask | filled).sum() > 0.97


def test_the_nearer_person_hides_the_farther():
    red, blue = (0, 0, 255), (255, 0, 0)
    near, far = CUBE * 0.5 + [0, 0, 3], CUBE * 0.5 + [0.2, 0, 6]
    for meshes in ([(near, red), (far, blue)], [(far, blue), (near, red)]):
        image = draw_meshes(
            np.zeros((200, 200, 3), np.uint8), meshes, CUBE_FACES, 200.0, np.array([100, 100]), 1.0
        )
        assert image[100, 100, 2] > 60 and image[100, 100, 0] == 0


def test_alpha_blends_and_the_rest_stays(body):
    image = np.full((200, 200, 3), 200, np.uint8)
    cube = CUBE * 0.3 + [0, 0, 3]
    solid = draw_meshes(
        image.copy(), [(cube, (90, 90, 90))], CUBE_FACES, 200.0, np.array([100, 100]), 1.0
    )
    half = draw_meshes(
        image.copy(), [(cube, (90, 90, 90))], CUBE_FACES, 200.0, np.array([100, 100]), 0.5
    )
    outside = (solid == 200).all(axis=2)
    assert 0.8 < outside.mean() < 0.99 and (half[outside] == 200).all()
    mean = (solid[~outside].astype(int) + 200) / 2
    assert np.abs(half[~outside] - mean).max() <= 1


def test_nothing_in_sight_is_left_alone():
    image = np.full((50, 50, 3), 7, np.uint8)
    for offset in ([0, 0, -5], [100, 0, 3], [0, -100, 3]):
        draw_meshes(image, [(CUBE * 0.5 + offset, (1, 2, 3))], CUBE_FACES, 50.0, np.array([25, 25]))
    assert (image == 7).all()


def test_standing_in_the_lens_does_not_break():
    image = np.full((50, 50, 3), 7, np.uint8)
    draw_meshes(image, [(CUBE, (200, 200, 200))], CUBE_FACES, 50.0, np.array([25, 25]))
    draw_meshes(
        image, [(CUBE + [0, 0, 0.5], (200, 200, 200))], CUBE_FACES, 50.0, np.array([25, 25])
    )
    assert image.shape == (50, 50, 3)


@pytest.mark.slow
def test_a_body_in_full_hd_takes_under_15_ms(body):
    motion = walker(body)
    local = Rotation.from_rotvec(motion.camera_poses[:1].reshape(-1, 3)).as_matrix()
    vertices = skin(body, local.reshape(1, 24, 3, 3), motion.betas, motion.camera_trans[:1])[0]
    image, best = np.zeros((1080, 1920, 3), np.uint8), np.inf
    for _ in range(10):
        began = time.perf_counter()
        draw_meshes(image, [(vertices, (90, 90, 90))], body.faces, 1500.0, np.array([960, 540]))
        best = min(best, time.perf_counter() - began)
    assert best < 0.015


# ------------------------------------------------------------------------------------ overlay


def test_figure_shows_the_nearest_frame_and_only_while_there(body):
    figure = Figure(walker(body, frames=10, fps=10.0, offset=2.0), body)
    assert figure.at(2.0, 0.04) == 0 and figure.at(2.26, 0.04) == 3 and figure.at(2.24, 0.04) == 2
    # The motion has fewer frames than the pictures: the last holds until the next would come.
    assert figure.at(2.97, 0.04) == 9 and figure.at(2.99, 0.04) is None
    assert figure.at(1.97, 0.04) is None and figure.at(1.985, 0.04) == 0
    assert figure.at(2.94, 0.1) == 9 and figure.at(2.96, 0.1) is None


def test_figure_gives_the_skinned_mesh_in_any_order(body):
    motion = walker(body, frames=40)
    figure = Figure(motion, body)
    truth = skin(body, motion.rotations, motion.betas, motion.trans)
    for index in (0, 1, 17, 39, 3, 20):
        assert np.array_equal(figure.vertices(index), truth[index])


def test_overlay_keeps_size_rate_and_frames_and_draws_in_time(body, video, tmp_path):
    late = walker(body, frames=10, offset=10 / 25)  # there from frame 10 to 19
    seen: list[int] = []
    out = render_overlay(video, [late], body, tmp_path / "o.mp4", progress=seen.append)
    with VideoReader(video) as before, VideoReader(out) as after:
        pairs = list(zip(before, after, strict=True))
        assert after.info.size == (320, 240) and after.info.fps == pytest.approx(25.0)
    assert len(pairs) == 24 == sum(seen)
    # The person is blue; grey stays grey through both encodings.
    changed = [np.ptp(after[2].astype(int), axis=2).max() > 60 for _, after in pairs]
    assert changed == [10 <= k <= 19 for k in range(24)]


def test_left_limbs_are_on_the_images_right_of_who_faces_us(body):
    motion = walker(body)
    left, right = JOINT_INDEX["left_wrist"], JOINT_INDEX["right_wrist"]
    assert (motion.joints2d[:, left, 0] > motion.joints2d[:, right, 0] + 20).all()
    frame = OverlayPainter([motion], body, 25.0).paint(np.zeros((240, 320, 3), np.uint8), 0.4)
    for name in ("left_wrist", "right_wrist", "left_knee", "head", "pelvis"):
        x, y = motion.joints2d[10, JOINT_INDEX[name]].astype(int)
        assert frame[y, x].any(), name
    x, y = motion.joints2d[10, JOINT_INDEX["head"]].astype(int)
    assert y < motion.joints2d[10, JOINT_INDEX["pelvis"], 1]


def test_every_person_has_a_colour(body):
    motions = [
        walker(body, person=1, start=(-0.8, 0, 0)),
        walker(body, person=2, start=(0.8, 0, 0)),
    ]
    frame = OverlayPainter(motions, body, 25.0).paint(np.zeros((240, 320, 3), np.uint8), 0.0)
    for motion in motions:
        x, y = motion.joints2d[0, JOINT_INDEX["spine2"]].astype(int)
        direction = frame[y, x] / np.linalg.norm(frame[y, x])
        wanted = np.array(person_color(motion.person), dtype=float)
        assert direction @ wanted / np.linalg.norm(wanted) > 0.99


def test_overlay_of_a_motion_without_camera_is_refused(body):
    motion = walker(body)
    motion.camera_focal = 0.0
    with pytest.raises(RopeTPError, match="no camera"):
        OverlayPainter([motion], body, 25.0)


def test_contact_sheet_shows_the_person_come_nearer(body, video, tmp_path):
    sheet = cv2.imread(str(contact_sheet(video, [walker(body)], body, tmp_path / "s.png")))
    assert sheet.shape == (2 * 360, 4 * 480, 3)
    tiles = [sheet[r : r + 360, c : c + 480] for r in (0, 360) for c in range(0, 1920, 480)]
    area = [int((np.ptp(tile.astype(int), axis=2) > 60).sum()) for tile in tiles]
    assert area[0] > 500 and (np.diff(area) > 0).all()


def test_ids_can_be_read_on_a_contact_sheet_of_a_large_video(body, tmp_path):
    """The plate of the id is as high on the sheet, however large the video."""
    heights = []
    for scale in (2, 6):
        path, size = tmp_path / f"{scale}.mp4", (320 * scale, 240 * scale)
        with VideoWriter(path, size, 25.0) as writer:
            for _ in range(12):
                writer.write(np.full((size[1], size[0], 3), 128, np.uint8))
        motion = walker(body, frames=12)
        motion = replace(
            motion, camera_focal=250.0 * scale, camera_center=motion.camera_center * scale
        )
        sheet = cv2.imread(str(contact_sheet(path, [motion], body, tmp_path / f"{scale}.png")))
        plate = np.abs(sheet[:360, :480].astype(int) - person_color(1)).max(axis=2) < 3
        heights.append(plate.any(axis=1).sum())
    assert min(heights) >= 19 and abs(heights[1] - heights[0]) <= 2  # px of 360


# -------------------------------------------------------------------------------------- world


def to_pixel(painter: WorldPainter, point, time: float) -> np.ndarray:
    k = int(round((time - painter.times[0]) * painter.fps))
    eye = painter.aims[k] - painter.turn[:, 2] * painter.distances[k]
    camera = (np.asarray(point) - eye) @ painter.turn
    assert camera[2] > 0
    return camera[:2] / camera[2] * painter.focal + painter.center


def test_world_shows_the_person_upright_in_the_middle(body):
    motion = walker(body)
    painter = WorldPainter([motion], body)
    assert np.allclose(painter.turn.T @ painter.turn, np.eye(3), atol=1e-12)
    assert np.linalg.det(painter.turn) == pytest.approx(1)
    for time_s in (0.0, 0.4, 0.76):
        index = round(time_s * 25)
        image = painter.paint(time_s)
        assert image.shape == (540, 960, 3)
        head, foot, pelvis = (
            to_pixel(painter, motion.joints[index, JOINT_INDEX[name]], time_s)
            for name in ("head", "left_foot", "pelvis")
        )
        assert head[1] < pelvis[1] < foot[1] and foot[1] - head[1] > 200
        assert np.abs(pelvis - [480, 270]).max() < 60
        x, y = pelvis.astype(int)
        color = np.array(person_color(1), dtype=float)
        drawn = image[y, x] / np.linalg.norm(image[y, x])
        assert drawn @ color / np.linalg.norm(color) > 0.99


def test_world_camera_keeps_the_videos_sides(body):
    """Who stands to the left in the video stands to the left in the world view."""
    motions = [walker(body, person=1, start=(-1, 0, 0)), walker(body, person=2, start=(1, 0, 0))]
    painter = WorldPainter(motions, body)
    left, right = (to_pixel(painter, motion.joints[0, 0], 0.0) for motion in motions)
    assert motions[0].joints2d[0, 0, 0] < motions[1].joints2d[0, 0, 0] and left[0] < right[0]


def test_a_fixed_camera_stands_and_sees_all_of_everybody(body):
    motions = [walker(body, person=1, start=(-3, 0, 0)), walker(body, person=2, start=(2, 0, -4))]
    painter = WorldPainter(motions, body, fixed=True)
    assert np.ptp(painter.aims, axis=0).max() == np.ptp(painter.distances) == 0
    for motion in motions:
        for index in (0, 19):
            for joint in motion.joints[index]:
                place = to_pixel(painter, joint, index / 25)
                assert (place > 5).all() and (place < [955, 535]).all()


def test_marks_lie_where_feet_stand_and_fade(body):
    motion = walker(body, frames=200)
    motion.contacts[10:14, 0] = 1.0  # the left foot, in passing
    painter = WorldPainter([motion], body, fixed=True)
    bare = WorldPainter([walker(body, frames=200)], body, fixed=True)
    (step,) = footprints(motion)
    x, y = to_pixel(painter, step.place, 0.0).astype(int)

    def strength(time: float) -> float:
        change = np.abs(painter.paint(time).astype(int) - bare.paint(time)).sum(axis=2)
        rows, columns = np.nonzero(change)
        assert np.abs(rows - y).max(initial=0) < 40 and np.abs(columns - x).max(initial=0) < 40
        return float(change.max(initial=0))

    assert strength(9 / 25) == 0
    assert strength(3.0) > strength(4.0) > 0 == strength(13 / 25 + 4.1)


def test_trail_runs_under_the_feet_and_nobody_leaves_the_picture(body):
    frames = 75
    motion = walker(body, frames=frames)
    motion.trans[:, 2] += np.linspace(0, 8, frames)
    motion.joints[..., 2] += np.linspace(0, 8, frames)[:, None]
    painter = WorldPainter([motion], body)
    for index in range(0, frames, 10):
        place = to_pixel(painter, motion.joints[index, 0], index / 25)
        assert (place > 100).all() and (place < [860, 440]).all()
    image = painter.paint(2.0)
    behind = motion.joints[30, 0] * [1, 0, 1]
    x, y = to_pixel(painter, behind, 2.0).astype(int)
    color = np.array(person_color(1), dtype=int)
    patch = image[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3).astype(int)
    tint = 0.55 * np.array([242, 239, 236]) + 0.45 * color
    assert np.abs(patch - tint).sum(axis=1).min() < 12
    ahead = motion.joints[70, 0] * [1, 0, 1]
    x, y = to_pixel(painter, ahead, 2.0).astype(int)
    if 3 < x < 956 and 3 < y < 536:
        patch = image[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3).astype(int)
        assert np.abs(patch - tint).sum(axis=1).min() > 12


def test_the_shadow_meets_the_soles_of_who_stands_and_leaves_who_floats(body):
    def gap(height: float) -> float:
        """Pixels between the lowest body pixel's column of shadow and the sole."""
        motion = walker(body, frames=5)
        motion.trans[:, 1] += height
        motion.joints[..., 1] += height
        painter = WorldPainter([motion], body)
        sole = skin(body, motion.rotations[:1], motion.betas, motion.trans[:1])[0]
        lowest = sole[sole[:, 1].argmin()]
        return np.linalg.norm(
            to_pixel(painter, lowest, 0.0) - to_pixel(painter, lowest * [1, 0, 1], 0.0)
        )

    assert gap(0.0) < 0.5 < 10 < gap(0.15)


def test_people_who_come_and_go_are_drawn_only_while_there(body):
    first = walker(body, frames=20, person=1)
    second = walker(body, frames=20, person=2, start=(1, 0, 0), offset=1.2)
    painter = WorldPainter([first, second], body)
    assert len(painter.times) == 50 and np.isfinite(painter.aims).all()
    blue, orange = (
        np.array(person_color(k), dtype=float) / np.linalg.norm(person_color(k)) for k in (1, 2)
    )

    def share(image: np.ndarray, color: np.ndarray) -> float:
        flat = image.reshape(-1, 3).astype(float)
        return float((flat @ color / np.linalg.norm(flat, axis=1) > 0.99).mean())

    early, late = painter.paint(0.2), painter.paint(1.6)
    assert share(early, blue) > 0.005 and share(early, orange) == 0
    assert share(late, orange) > 0.005 and share(late, blue) < 0.003
    assert painter.paint(1.0).shape == (540, 960, 3)  # between them: an empty floor


def test_path_plot_marks_where_people_went(body, tmp_path):
    motion = walker(body, frames=60)
    motion.joints[..., 0] += np.linspace(0, 3, 60)[:, None]
    image = cv2.imread(str(path_plot([motion], tmp_path / "p.png")))
    assert image is not None and max(image.shape) == 900
    is_path = np.abs(image.astype(int) - person_color(1)).sum(axis=2) < 30
    ys, xs = np.nonzero(is_path)
    # +x goes right and +z goes down: the path falls from the upper left to the lower right.
    assert np.corrcoef(xs, ys)[0, 1] > 0.5


# ------------------------------------------------------------------------------- command line


def run_directory(tmp_path, video, motion, **report):
    run = tmp_path / "run"
    run.mkdir()
    save_motion(motion, run / "person_01.npz")
    (run / "report.json").write_text(json.dumps({"video": {"path": str(video)}} | report))
    return run


def run(arguments, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in arguments])
    return stop.value.code or 0, *capsys.readouterr()


def test_preview_command_draws_what_is_asked(body, video, tmp_path, capsys):
    folder = run_directory(tmp_path, video, walker(body))
    words = "viewer,overlay,side-by-side,paths"
    code, out, err = run(["preview", folder, "--preview", words, "--quiet"], capsys)
    assert code == 0, err
    names = ["overlay.mp4", "side_by_side.mp4", "paths.png", "viewer.html"]
    assert out.split() == [str(folder / name) for name in names]
    with VideoReader(folder / "side_by_side.mp4") as reader:
        assert reader.info.size == (640, 240) and reader.info.frame_count == 24


def test_preview_command_ends_in_one_line(body, video, tmp_path, capsys):
    folder = run_directory(tmp_path, video, walker(body))
    cases = {
        ("preview", tmp_path / "none"): "not a finished capture",
        ("preview", folder, "--video", tmp_path / "moved.mp4"): "moved.mp4",
        ("preview", folder, "-o", folder / "report.json"): "report.json",
    }
    for arguments, words in cases.items():
        code, _, err = run([*arguments, "--quiet"], capsys)
        assert code == 1 and words in err and err.count("\n") == 1, err
    assert run(["preview", folder, "--preview", "hologram"], capsys)[0] == 2
    (folder / "report.json").write_text("{}")
    code, _, err = run(["preview", folder], capsys)
    assert code == 1 and "damaged" in err
    (folder / "report.json").write_text(json.dumps({"video": {"path": str(video)}}))
    (folder / "person_01.npz").unlink()
    code, _, err = run(["preview", folder], capsys)
    assert code == 1 and "--format npz" in err


def test_preview_knows_when_the_video_is_another(body, video, tmp_path, capsys):
    folder = run_directory(tmp_path, video, walker(body))
    report = {"video": {"path": str(video), "width": 320, "height": 240}}
    (folder / "report.json").write_text(json.dumps(report | {"source": fingerprint(video)}))
    told = ["preview", folder, "--preview", "overlay", "--quiet"]
    assert run(told, capsys)[2] == ""
    other = tmp_path / "other.mp4"
    with VideoWriter(other, (320, 240), 25.0) as writer:
        writer.write(np.zeros((240, 320, 3), np.uint8))
    code, _, err = run([*told, "--video", other], capsys)
    assert code == 0 and "changed since it was captured" in err
    with VideoWriter(other, (240, 320), 25.0) as writer:
        writer.write(np.zeros((320, 240, 3), np.uint8))
    code, _, err = run([*told, "--video", other], capsys)
    assert code == 1 and "240 x 320" in err and "320 x 240" in err
    video.unlink()
    code, _, err = run(told, capsys)
    assert code == 1 and "--video" in err


def test_a_capture_knows_its_pictures():
    assert all(WRITTEN.fullmatch(name) for name in FILES.values())


def test_preview_draws_who_the_report_speaks_of(body, video, tmp_path, capsys):
    folder = run_directory(tmp_path, video, walker(body), files=["person_02.npz"])
    code, _, err = run(["preview", folder], capsys)  # person_01 is of an earlier capture
    assert code == 1 and "--format npz" in err


def test_preview_refuses_another_body(body, video, tmp_path, capsys):
    motion = walker(body)
    motion.body = "smpl:0123"
    folder = run_directory(tmp_path, video, motion)
    code, _, err = run(["preview", folder], capsys)
    assert code == 1 and "--body" in err and "smpl" in err


def test_previews_are_checked_before_anything_is_drawn(body, tmp_path):
    assert check_previews(["none"]) == () and check_previews(["world", "world"]) == ("world",)
    assert check_previews(["viewer", "overlay"]) == ("overlay", "viewer")  # it looks for it
    with pytest.raises(RopeTPError, match="hologram"):
        render_previews("none.mp4", [walker(body)], body, tmp_path, ("world", "hologram"))
    assert not list(tmp_path.iterdir())
