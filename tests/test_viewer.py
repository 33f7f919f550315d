"""The viewer's page: its data against the motion, and the page itself in a real browser."""

import base64
import dataclasses
import hashlib
import http.server
import json
import queue
import re
import shutil
import subprocess
import threading
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ropetp_cli import exchange
from ropetp_cli.body.model import load_body, skin
from ropetp_cli.body.rotations import forward_kinematics
from ropetp_cli.body.skeleton import JOINT_INDEX
from ropetp_cli.motion import Motion
from ropetp_cli.preview.figure import footprints, person_color
from ropetp_cli.preview.viewer import WEB, write_viewer
from ropetp_cli.video.writer import VideoWriter

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --use-gl=angle --use-angle=swiftshader"
    " --enable-unsafe-swiftshader --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --hide-scrollbars"
    " --enable-logging=stderr --v=0"
).split()


@pytest.fixture(scope="module")
def body():
    return load_body()


def dancer(body, person=1, frames=50, fps=25.0, start=0.0, x=0.0, seed=0) -> Motion:
    """Somebody who sways in every joint and glides along z, each foot down half of the time."""
    rng = np.random.default_rng(seed)
    betas = rng.uniform(-1, 1, 10)
    sway = np.sin(np.linspace(0, 6, frames)[:, None] + rng.uniform(0, 6, 72))
    poses = 0.25 * sway
    poses[:, :3] = [0.0, 0.4, 0.0]
    trans = np.stack([np.full(frames, x), np.full(frames, 0.95), np.linspace(0, 1.5, frames)], 1)
    local = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(frames, 24, 3, 3)
    down = np.arange(frames) % 20 < 10
    return Motion(
        poses, trans, betas, fps, forward_kinematics(local, body.rest_joints(betas), trans),
        timestamps=start + np.arange(frames) / fps, contacts=np.stack([down, ~down], 1) * 1.0,
        body=body.label, person=person,
    )  # fmt: skip


def data_of(page: Path) -> dict:
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(), re.S)
    return json.loads(found[1])


def unpacked(array: dict, *shape: int) -> np.ndarray:
    raw = np.frombuffer(base64.b64decode(array["bytes"]), "<" + array["kind"])
    return raw.reshape(shape) * (array["scale"] or 1)


def test_the_page_holds_the_motion(body, tmp_path):
    motion = dancer(body)
    told = data_of(write_viewer(None, [motion], body, tmp_path / "viewer.html"))
    (person,) = told["people"]
    quaternions = unpacked(person["rotations"], 50, 24, 4) / 32767
    local = Rotation.from_quat(quaternions.reshape(-1, 4)).as_matrix().reshape(50, 24, 3, 3)
    rest = np.array(person["rest"])
    pelvis = unpacked(person["pelvis"], 50, 3)
    joints = forward_kinematics(local, rest, pelvis - rest[0])
    assert np.abs(joints - motion.joints).max() < 2e-4
    vertices = unpacked(person["vertices"], -1, 3)
    assert np.abs(vertices - body.rest_vertices(motion.betas)).max() < 5e-5
    assert np.array_equal(unpacked(told["mesh"]["faces"], -1, 3), body.faces)
    bones = unpacked(told["mesh"]["bones"], -1, 4).astype(int)
    weights = unpacked(told["mesh"]["weights"], -1, 4) / 255
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-12)
    spread = np.zeros_like(body.weights)
    np.add.at(spread, (np.arange(len(bones))[:, None], bones), weights)
    skinned = skin(
        dataclasses.replace(body, weights=spread.astype(np.float32)),
        local[:1], motion.betas, motion.trans[:1],
    )  # fmt: skip
    truth = skin(body, motion.rotations[:1], motion.betas, motion.trans[:1])
    assert np.abs(skinned - truth).max() < 3e-3
    assert unpacked(person["speeds"], 50)[25] == pytest.approx(1.5 / 49 * 25, rel=0.02)


def test_the_page_asks_the_network_for_nothing(body, tmp_path):
    text = write_viewer(None, [dancer(body)], body, tmp_path / "viewer.html").read_text()
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", markup)
    assert "fetch(" not in (WEB / "page.js").read_text() and "{{" not in markup
    assert (WEB / "THREE_LICENSE").read_text().strip() in text
    assert len(text) < 2e6


def test_three_js_is_the_one_on_record():
    record = tomllib.loads((WEB / "three.toml").read_text())
    content = (WEB / "three.min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert b"</script" not in content


def test_a_licensed_mesh_stays_out_unless_asked_for(body, tmp_path):
    licensed = dataclasses.replace(body, name="smpl")
    motion = dataclasses.replace(dancer(body), body=licensed.label)
    path = tmp_path / "viewer.html"
    told = data_of(write_viewer(None, [motion], licensed, path))
    assert told["mesh"] is None and told["people"][0]["vertices"] is None
    assert "licence" in told["note"] and "--with-mesh" in told["note"]
    told = data_of(write_viewer(None, [motion], licensed, path, with_mesh=True))
    assert told["mesh"] and told["people"][0]["vertices"] and not told["note"]
    told = data_of(write_viewer(None, [dancer(body)], body, path, with_mesh=False))
    assert told["mesh"] is None and not told["note"]


def test_the_page_finds_the_video_and_its_overlay(body, tmp_path):
    video, run = tmp_path / "clips" / "a&b #1.mp4", tmp_path / "run"
    video.parent.mkdir()
    run.mkdir()
    for path in (video, run / "overlay.mp4"):
        with VideoWriter(path, (64, 48), 25.0) as writer:
            for _ in range(60):
                writer.write(np.full((48, 64, 3), 128, np.uint8))
    motion = dancer(body, start=1.0)
    page = write_viewer(video, [motion], body, run / "viewer.html", start=1.0)
    source, overlay = data_of(page)["films"]
    assert source["places"] == ["../clips/a%26b%20%231.mp4", "a%26b%20%231.mp4"]
    assert (source["offset"], overlay["offset"]) == (0.0, 1.0)
    assert source["poster"].startswith("data:image/jpeg") and overlay["places"] == ["overlay.mp4"]
    assert "<title>a&amp;b #1.mp4</title>" in page.read_text()


def test_footprints_lie_under_the_feet_that_stand(body):
    motion = dancer(body)
    motion.joints[..., 1] -= motion.joints[:, [10, 11], 1].min(axis=1)[:, None]
    prints = footprints(motion)
    assert [(step.foot, step.first, step.last) for step in prints] == [
        (0, 0, 9), (1, 10, 19), (0, 20, 29), (1, 30, 39), (0, 40, 49),
    ]  # fmt: skip
    for step in prints:
        side = ("left", "right")[step.foot]
        toe = motion.joints[step.first : step.last + 1, JOINT_INDEX[f"{side}_foot"]].mean(axis=0)
        assert np.linalg.norm((toe - step.place)[::2]) < 0.12 and step.place[1] == 0
        ahead = np.array([np.sin(step.heading), np.cos(step.heading)])
        assert (toe - step.place)[::2] @ ahead > 0.03
    motion.joints[..., 1] += 1.5  # on a wall
    for low, high in zip(prints, footprints(motion), strict=True):
        assert high.place[1] == pytest.approx(1.5, abs=0.06)
        assert np.array_equal(high.place[::2], low.place[::2])


# ------------------------------------------------------------------------------- in a browser

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium"
)
PROBE = """<script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const until = async (happened) => { while (!happened()) await wait(50); };
const press = (key) => window.dispatchEvent(new KeyboardEvent("keydown", { key }));
const shown = () => document.querySelectorAll("#labels span:not([hidden])").length;
(async () => {
  const found = {};
  ropetp.seek(0.4);
  found.joints = [ropetp.joints(1), ropetp.joints(2)];
  found.picture = document.getElementById("stage").toDataURL();
  found.clock = document.getElementById("clock").textContent;
  press("ArrowRight");
  found.stepped = ropetp.time();
  await until(() => shown() === 2);
  press("2");
  await until(() => shown() === 1);
  press("2");
  press("]");
  press(" ");
  await until(() => ropetp.time() > 0.6);
  press(" ");
  found.paused = ropetp.time();
  await wait(200);
  found.still = ropetp.time() === found.paused;
  press("End");
  found.end = ropetp.time();
  for (const key of "tcbgvlrf?") press(key);
  await wait(200);
  const body = JSON.stringify(found);
  fetch("http://127.0.0.1:PORT", { method: "POST", mode: "no-cors", body });
})();
</script></body>"""


def console(stderr: str) -> list[str]:
    """What the page said, without the driver's remarks on speed."""
    lines = [line for line in stderr.splitlines() if "CONSOLE" in line]
    return [line for line in lines if "GL Driver Message" not in line]


def told_by(
    page: Path, folder: Path, probe: str = PROBE, size: str = "720,640"
) -> tuple[dict, list[str]]:
    """What the page with the probe in it sends home, and its console."""
    answers: queue.Queue[bytes] = queue.Queue()

    class Home(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            answers.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Home) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        probe = probe.replace("PORT", str(server.server_port))
        page.write_text(page.read_text().replace("</body>", probe))
        browser = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0",
             f"--window-size={size}", page.as_uri()],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            answer = json.loads(answers.get(timeout=500))
        finally:
            browser.terminate()
            stderr = browser.communicate()[1]
            server.shutdown()
    return answer, console(stderr)


@needs_chromium
@pytest.mark.timeout(600)  # a software renderer on a busy machine is slow
def test_a_browser_shows_and_plays_what_the_file_says(body, tmp_path):
    motions = [dancer(body, 1, start=0.0), dancer(body, 2, start=0.2, x=1.2, seed=1)]
    page = write_viewer(None, motions, body, tmp_path / "viewer.html")
    answer, said = told_by(page, tmp_path)
    assert said == []
    for motion, joints, frame in zip(motions, answer["joints"], (10, 5), strict=True):
        assert np.abs(np.array(joints) - motion.joints[frame]).max() < 3e-4
    assert answer["clock"].startswith("0.40 / 2.16 s") and answer["clock"].endswith("frame 10")
    assert answer["stepped"] == pytest.approx(0.44)
    assert 0.6 < answer["paused"] < 2.16 and answer["still"]
    assert answer["end"] == pytest.approx(2.16)
    png = np.frombuffer(base64.b64decode(answer["picture"].split(",")[1]), np.uint8)
    image = cv2.imdecode(png, cv2.IMREAD_COLOR).astype(float)
    for motion in motions:
        color = np.array(person_color(motion.person), dtype=float)
        cosine = image @ color / np.linalg.norm(image, axis=2) / np.linalg.norm(color)
        rows = np.nonzero((cosine > 0.985).sum(axis=1) > 3)[0]
        assert (cosine > 0.985).sum() > 3000 and np.ptp(rows) > 200  # a body, not a speck


NARROW_PROBE = """<script>
(async () => {
  ropetp.seek(0.4);
  const edge = (place, side) => document.querySelector(place).getBoundingClientRect()[side];
  const plot = document.getElementById("plot"), wide = 12 * plot.width / plot.clientWidth;
  const right = plot.getContext("2d").getImageData(plot.width - wide, 0, wide, 48).data;
  const body = JSON.stringify({
    width: window.innerWidth, head: edge("header", "bottom"), bar: edge("footer", "top"),
    labels: [...document.querySelectorAll("#labels span:not([hidden])")].map(
      (one) => one.getBoundingClientRect().top),
    beyond: right.filter((value, index) => index % 4 === 3 && value).length,
  });
  fetch("http://127.0.0.1:PORT", { method: "POST", mode: "no-cors", body });
})();
</script></body>"""


@needs_chromium
@pytest.mark.timeout(600)
def test_in_a_phones_window_nobody_is_under_the_title_or_the_bar(body, tmp_path):
    motions = [dancer(body, 1), dancer(body, 2, x=1.2, seed=1)]
    for motion in motions:
        motion.contacts[-10:] = 1.0  # up to the plot's right end, and no further
    motions[0].trans[:, 1] += 1.5  # on a wall
    motions[0].joints[..., 1] += 1.5
    page = write_viewer(None, motions, body, tmp_path / "viewer.html")
    answer, said = told_by(page, tmp_path, NARROW_PROBE, "500,900")
    assert said == [] and answer["width"] < 700 and len(answer["labels"]) == 2
    assert answer["head"] < min(answer["labels"]) < max(answer["labels"]) < answer["bar"] - 60
    assert answer["beyond"] == 0


def test_viewer_is_written_for_any_motion(body, tmp_path):
    """One frame, and a motion without a video behind it."""
    motion = dancer(body, frames=1)
    exchange.write(motion, tmp_path / "a.npz")
    read = exchange.read(tmp_path / "a.npz")
    told = data_of(write_viewer(None, [read], body, tmp_path / "viewer.html"))
    assert told["people"][0]["frames"] == 1 and told["films"] == [] and told["end"] == 0
