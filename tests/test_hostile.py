"""Readers against files made to hurt: damaged at random, or forged with a purpose.

Whatever is in a file, its reader gives a value or one line that names the file; nothing else is
raised, nothing in the file is run, nothing is touched outside it, and memory and time stay small.
``EXAMPLES`` files a reader are tried; ROPETP_TEST_EXAMPLES sets another number.
"""

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tomllib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filmed import seen_by, turning_rotations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import ExifTags, Image
from test_body import smpl_arrays

from ropetp_cli import stages
from ropetp_cli.body.model import load_body
from ropetp_cli.cli.preview import _report
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange.bvh import read_bvh, save_bvh
from ropetp_cli.exchange.npz import load_motion, save_motion
from ropetp_cli.motion import Motion
from ropetp_cli.runs import files_of, is_finished, last_report
from ropetp_cli.stages import NotStored
from ropetp_cli.stills import (
    FOCAL_LENGTH_35MM,
    LONGEST_MM,
    SHORTEST_MM,
    read_boxes,
    stated_focal_mm,
)
from ropetp_cli.training.sightings import Sightings
from ropetp_cli.video.writer import VideoWriter
from ropetp_cli.weights import WeightFile, read_manifest

EXAMPLES = int(os.environ.get("ROPETP_TEST_EXAMPLES", 150))
tried = settings(
    max_examples=EXAMPLES,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def try_reader(read: Callable[[Path], object], path: Path, content: bytes) -> object:
    """What ``read`` makes of a file; None where it refuses it as it should."""
    path.write_bytes(content)
    try:
        return read(path)
    except RopeTPError as error:
        assert path.name in str(error) and len(str(error).splitlines()) == 1
        return None
    finally:
        beside = [other.name for other in path.parent.iterdir() if other != path]
        assert not beside, f"reading made {beside}"


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """``whole`` with some bytes changed, cut, repeated or put in."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["change", "cut", "drop", "repeat", "insert", "number"]))
        span = draw(st.integers(1, 64))
        if kind == "change":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "cut":
            del content[at:]
        elif kind == "drop":
            del content[at : at + span]
        elif kind == "repeat":
            content[at:at] = content[at : at + span] * draw(st.integers(1, 9))
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=64))
        else:
            value = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40]))
            content[at : at + 8] = struct.pack("<Q", value)
    return bytes(content)


def whole_motion() -> Motion:
    rng = np.random.default_rng(1)
    joints = rng.normal(size=(5, 24, 3))
    return Motion(rng.normal(size=(5, 72)), rng.normal(size=(5, 3)), np.zeros(10), 30.0, joints)


def bytes_of(write: Callable[[Path], object], suffix: str, folder: Path) -> bytes:
    path = folder / f"whole{suffix}"
    write(path)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """One sound file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    motion, body = whole_motion(), smpl_arrays(shapes=10)
    dense = {**body, "J_regressor": body["J_regressor"].toarray()}
    return {
        "npz": bytes_of(lambda path: save_motion(motion, path), ".npz", folder),
        "bvh": bytes_of(lambda path: save_bvh(motion, path), ".bvh", folder),
        "pkl": pickle.dumps(body, 2),
        "body.npz": bytes_of(lambda path: np.savez(path, **dense), ".npz", folder),
    }


@tried
@given(data=st.data())
def test_damaged_motions(tmp_path_factory, whole, data):
    path = tmp_path_factory.mktemp("f") / "motion.npz"
    answer = try_reader(load_motion, path, data.draw(damaged(whole["npz"])))
    assert answer is None or isinstance(answer, Motion)


SHAPES = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=80).filter(
    lambda shape: np.prod(shape) < 20_000
)
ANY_ARRAY = st.builds(
    lambda numbers, kind: numbers.astype(kind),
    arrays("u1", SHAPES, fill=st.just(0)),
    st.sampled_from(["f8", "f4", "i8", "u1", "?", "U5", "S3", "c16", "M8[s]"]),
) | st.sampled_from([np.array("z"), np.array("y"), np.float64(30), np.array(np.nan)])
KEYS = ["poses", "trans", "betas", "mocap_framerate", "joints", "up_axis", "gender", "body",
        "timestamps", "boxes", "contacts", "person", "camera_R", "camera_focal"]  # fmt: skip


@tried
@given(changes=st.dictionaries(st.sampled_from(KEYS), ANY_ARRAY | st.none(), max_size=4))
def test_motions_with_other_arrays(tmp_path_factory, whole, changes):
    with np.load(io.BytesIO(whole["npz"])) as file:
        content = dict(file)
    content.update(changes)
    stream = io.BytesIO()
    np.savez(stream, **{key: value for key, value in content.items() if value is not None})
    path = tmp_path_factory.mktemp("f") / "motion.npz"
    answer = try_reader(load_motion, path, stream.getvalue())
    assert answer is None or len(answer) == len(answer.joints)


SIGHTINGS = st.sampled_from(list(Sightings.__dataclass_fields__))


@tried
@given(data=st.data(), changes=st.dictionaries(SIGHTINGS, ANY_ARRAY | st.none(), max_size=2))
def test_damaged_and_made_up_sightings(tmp_path_factory, data, changes):
    content = vars(seen_by(turning_rotations(3))) | changes
    stream = io.BytesIO()
    np.savez(stream, **{key: value for key, value in content.items() if value is not None})
    given_bytes = stream.getvalue() if changes else data.draw(damaged(stream.getvalue()))
    path = tmp_path_factory.mktemp("f") / "sightings.npz"
    answer = try_reader(Sightings.load, path, given_bytes)
    assert answer is None or len(answer.seen) == answer.offsets[-1]


@tried
@given(data=st.data())
def test_damaged_bvh(tmp_path_factory, whole, data):
    path = tmp_path_factory.mktemp("f") / "motion.bvh"
    answer = try_reader(read_bvh, path, data.draw(damaged(whole["bvh"])))
    assert answer is None or np.isfinite(answer.positions).all()


BVH_WORDS = st.sampled_from(
    "ROOT JOINT End Site { } OFFSET CHANNELS MOTION Frames: Frame Time: 0 1 3 6 -1 1e400 nan 0.03 "
    "99999999999 Xposition Yposition Zposition Xrotation Yrotation Zrotation hip".split()
)


@tried
@given(words=st.lists(BVH_WORDS, max_size=120), body=st.lists(BVH_WORDS, max_size=30))
def test_bvh_of_the_right_words_in_any_order(tmp_path_factory, words, body):
    path = tmp_path_factory.mktemp("f") / "motion.bvh"
    text = f"HIERARCHY {' '.join(words)} MOTION Frames: 1 Frame Time: 0.03 {' '.join(body)}"
    try_reader(read_bvh, path, text.encode())


@tried
@given(data=st.data())
@pytest.mark.parametrize("kind", ["pkl", "body.npz"])
def test_damaged_bodies(tmp_path_factory, whole, kind, data):
    path = tmp_path_factory.mktemp("f") / "SMPL.pkl"
    try_reader(load_body, path, data.draw(damaged(whole[kind])))


OPERATIONS = st.sampled_from(
    [bytes([code]) for code in b"().}]lt0122ajNabcegioqrsu\x80\x81\x85\x86\x87\x88\x89\x8c\x8d\x94"]
    + [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
       b"cnumpy.core.multiarray\nscalar\n", b"ccopy_reg\n_reconstructor\n", b"cos\nsystem\n",
       b"cbuiltins\neval\n", b"cchumpy.ch\nCh\n", b"cscipy.sparse.csc\ncsc_matrix\n",
       b"c_codecs\nencode\n", b"U\x04rm *", b"K\x05", b"X\x02\x00\x00\x00f8", b"h\x00", b"q\x00",
       b"r\xff\xff\xff\x7f", b"\x8a\x04\xff\xff\xff\x7f", b"J\xff\xff\xff\xff"]
)  # fmt: skip


@tried
@given(operations=st.lists(OPERATIONS, max_size=60))
def test_pickles_of_any_operations(tmp_path_factory, operations):
    path = tmp_path_factory.mktemp("f") / "SMPL.pkl"
    content = b"\x80\x02" + b"".join(operations) + b"."
    assert try_reader(load_body, path, content) is None


MANIFEST = (Path(__file__).parents[1] / "weights" / "manifest.toml").read_bytes()


@tried
@given(data=st.data())
def test_damaged_manifests(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f") / "manifest.toml"
    entries = try_reader(lambda p: read_manifest(p.parent), path, data.draw(damaged(MANIFEST)))
    assert all(isinstance(entry, WeightFile) for entry in entries or ())


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..", "", "a/../../../x"])
def test_manifests_name_nothing_outside_their_directory(tmp_path, name):
    text = MANIFEST.decode().replace("rope.safetensors", name)
    assert tomllib.loads(text)["file"][0]["name"] == name
    path = tmp_path / "weights" / "manifest.toml"
    path.parent.mkdir()
    assert try_reader(lambda p: read_manifest(p.parent), path, text.encode()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
BOXES = st.dictionaries(
    st.text(), st.lists(st.lists(st.integers() | st.floats(), min_size=4, max_size=4))
)


@tried
@given(value=JSON | BOXES)
def test_boxes_of_any_json(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("f") / "boxes.json"
    boxes = try_reader(read_boxes, path, json.dumps(value).encode())
    for rows in (boxes or {}).values():
        assert rows.shape[1] == 4 and np.isfinite(rows).all()


@pytest.fixture(scope="module")
def whole_photo() -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[FOCAL_LENGTH_35MM] = 26
    Image.new("RGB", (16, 16)).save(file, "JPEG", exif=exif)
    return file.getvalue()


@tried
@given(data=st.data())
def test_damaged_exif(tmp_path_factory, whole_photo, data):
    path = tmp_path_factory.mktemp("f") / "photo.jpg"
    with warnings.catch_warnings(action="error"):
        stated = try_reader(stated_focal_mm, path, data.draw(damaged(whole_photo)))
    assert stated is None or SHORTEST_MM <= stated <= LONGEST_MM


@tried
@given(value=JSON, content=st.binary(max_size=200))
def test_reports_of_any_json(tmp_path_factory, value, content):
    folder = tmp_path_factory.mktemp("f")
    for text in (json.dumps(value).encode(), json.dumps({"video": value}).encode(), content):
        path = folder / "report.json"
        path.write_bytes(text)
        assert not is_finished(last_report(folder), "key", lambda name: True)
        with pytest.raises(RopeTPError) as error:
            _report(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/hostname", "", "..", 3, None, ["a"]])
def test_reports_name_nothing_outside_their_directory(tmp_path, name):
    (tmp_path / "secret.txt").write_text("x")
    folder = tmp_path / "run"
    folder.mkdir()
    report = {"key": "key", "files": [name]}
    assert not is_finished(report, "key", lambda name: (folder / name).is_file())
    assert files_of(report) == files_of({"files": name}) == files_of({}) == []


@pytest.mark.parametrize("name", ["thesis.docx", "person_01.npz/../../x.npz", "report.json"])
def test_a_report_cannot_have_other_files_removed(name):
    assert files_of({"files": [name, "person_01.npz"]}) == ["person_01.npz"]


@tried
@given(data=st.data())
def test_damaged_stages(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f") / "people.npz"
    value = [np.arange(5), {"a": (1.5, "b")}, None]
    stages.save(path, "key", value, {})
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    try:
        stages.load(path, "key", {})
    except NotStored:
        pass


# Forged with a purpose: each would take gigabytes, for ever, or the whole process.


def bomb(member: bytes, repeats: int) -> bytes:
    """An npz of a few kilobytes with one enormous member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("poses.npy", "w", force_zip64=True) as file:
            for _ in range(repeats):
                file.write(member)
    return stream.getvalue()


def lying_header() -> bytes:
    """Says it holds 10^11 frames."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (10**11, 72)}
    )
    return bomb(stream.getvalue() + b"\0" * 4096, 1)


def laughs() -> bytes:
    """Lists of lists of lists: 10^12 numbers when spelled out."""
    layers = b"K\x01" + b"".join(
        b"q%c]q%c(" % (2 * k, 2 * k + 1) + b"h%c" % (2 * k) * 100 + b"e" for k in range(6)
    )
    return b"\x80\x02}U\nv_template" + layers + b"s."


def wide_sparse() -> bytes:
    body = smpl_arrays(shapes=10)
    matrix = body["J_regressor"].tocoo()
    matrix._shape = (24, 10**9)
    return pickle.dumps({**body, "J_regressor": matrix}, 2)


def many_frames(joints: int, frames: int, channels: str) -> bytes:
    lines = ["HIERARCHY", f"ROOT a {{ OFFSET 0 0 0 CHANNELS {channels}"]
    lines += [f"JOINT j{k} {{ OFFSET 0 0 0 }}" for k in range(joints)]
    return "\n".join([*lines, "}", f"MOTION Frames: {frames} Frame Time: 0.01"]).encode()


BOMBS = {
    "zip bomb motion": ("load_motion", lambda: bomb(b"\0" * (1 << 20), 3000)),
    "lying npy header": ("load_motion", lying_header),
    "zip bomb body": ("load_body", lambda: bomb(b"\0" * (1 << 20), 3000)),
    "pickle memo": ("load_body", lambda: b"\x80\x02}r\xff\xff\xff\x7f."),
    "nested lists": ("load_body", laughs),
    "nested tuples": ("load_body", lambda: b"\x80\x02}N" + b"\x85" * 3_000_000 + b"K\x01s."),
    "wide sparse matrix": ("load_body", wide_sparse),
    "long integer": ("load_body", lambda: b"\x80\x02\x8b" + struct.pack("<i", 50_000_000)
                     + b"\x01" * 50_000_000 + b"."),
    "BVH of frames without channels": ("read_bvh", lambda: many_frames(0, 10**10, "0")),
    "BVH of joints without channels": (
        "read_bvh",
        lambda: many_frames(30_000, 30_000, "1 Xposition") + b" 0" * 30_000,
    ),
    "deep JSON": ("read_boxes", lambda: b'{"a": ' + b"[" * 500_000),
    "deep TOML": ("manifest", lambda: b"a = " + b"[" * 100_000),
    "a device": ("load_body", None),
}  # fmt: skip
CHILD = """
import resource, sys, time
from pathlib import Path
from ropetp_cli.body.model import load_body
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange.bvh import read_bvh
from ropetp_cli.exchange.npz import load_motion
from ropetp_cli.stills import read_boxes
from ropetp_cli.weights import read_manifest
manifest = lambda path: read_manifest(path.parent)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
try:
    globals()[sys.argv[1]](Path(sys.argv[2]))
except RopeTPError as error:
    print(str(error))
else:
    sys.exit("it was taken for sound")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - began)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path, name):
    reader, make = BOMBS[name]
    path = tmp_path / ("manifest.toml" if reader == "manifest" else "file")
    if make is None:
        path = Path("/dev/zero")
    else:
        path.write_bytes(make())
    limit = 8 << 30  # so that a failure of this test does not take the machine with it
    answer = subprocess.run(
        [sys.executable, "-c", CHILD, reader, str(path)],
        capture_output=True, text=True, timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]
    line, figures = answer.stdout.splitlines()
    kilobytes, seconds = map(float, figures.split())
    assert path.name in line
    assert kilobytes < 400_000 and seconds < 30


FILMS = """
import random, sys
from pathlib import Path
from ropetp_cli.errors import RopeTPError
from ropetp_cli.video.reader import VideoReader
source, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
read = refused = 0
for seed in range(int(sys.argv[3])):
    chance = random.Random(seed)
    content = bytearray(source)
    for _ in range(chance.randint(1, 12)):
        headers = [content.find(box) for box in (b"moov", b"trak", b"stbl", b"hdlr", b"strh")]
        near = chance.choice([at for at in headers if at > 0] or [0])
        at = chance.choice([chance.randrange(len(content)), near + chance.randrange(300)])
        at = min(at, len(content) - 8)
        if chance.random() < 0.2:
            del content[at : at + chance.randrange(400)]
        else:
            value = chance.choice([0, 1, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, chance.getrandbits(32)])
            content[at : at + 4] = value.to_bytes(4, "big")
    path.write_bytes(content)
    print("seed", seed, file=sys.stderr, flush=True)
    try:
        with VideoReader(path) as reader:
            for count, (_, time, frame) in enumerate(reader):
                assert frame.shape == (reader.info.height, reader.info.width, 3)
                if count == 60:
                    break
        read += 1
    except RopeTPError as error:
        assert path.name in str(error) and len(str(error).splitlines()) == 1
        refused += 1
# Not ru_maxrss: a child is born with its parent's.
status = dict(line.split(":") for line in open("/proc/self/status"))
print(read, refused, status["VmHWM"].split()[0])
"""


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_damaged_videos(tmp_path, suffix):
    import cv2

    source = tmp_path / f"whole{suffix}"
    if suffix == ".mp4":
        with VideoWriter(source, (64, 48), 25) as video:
            for index in range(20):
                video.write(np.full((48, 64, 3), 10 * index, np.uint8))
    else:
        writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
        for index in range(20):
            writer.write(np.full((48, 64, 3), 10 * index, np.uint8))
        writer.release()
    answer = subprocess.run(
        [sys.executable, "-c", FILMS, str(source), str(tmp_path / f"damaged{suffix}"),
         str(EXAMPLES)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]
    read, refused, peak = map(int, answer.stdout.split())
    assert read + refused == EXAMPLES and refused > 0 and read > 0
    assert peak < 2_500_000  # kB
