"""The occlusion sensitivity map."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import ultralytics
from click.testing import CliRunner

from ropetp_cli.body.model import load_body
from ropetp_cli.cli.evaluate import command
from ropetp_cli.errors import NobodyFound, RopeTPError
from ropetp_cli.evaluation.occlusion import (
    GREY,
    SensitivityMap,
    crop_of_picture,
    draw,
    finder,
    occluded,
    sensitivity,
)
from ropetp_cli.rope.predictor import RopePredictor
from ropetp_cli.weights import find_weights

BUS = Path(ultralytics.__file__).parent / "assets" / "bus.jpg"


def test_the_square_goes_everywhere_and_stays_square():
    copies = occluded(np.zeros((256, 256, 3), np.uint8), side=32, stride=64)
    assert copies.shape == (25, 256, 256, 3)
    covered = (copies == GREY).all(axis=-1).sum(axis=(1, 2)).reshape(5, 5)
    assert (covered[1:-1, 1:-1] == 32 * 32).all() and covered[0, 0] == 16 * 16


def test_covering_the_person_hurts_more_than_covering_the_corner():
    body = load_body()
    predictor = RopePredictor.from_weights(body)
    crop = crop_of_picture(BUS)
    found = sensitivity(predictor, body, crop, finder(), side=112, stride=128)
    assert found.errors.shape == (3, 3) and found.clear == pytest.approx(0, abs=1e-6)
    assert found.errors[1, 1] > 50 > found.errors[[0, 2], [2, 0]].min()
    picture = draw(crop, {"rope": found}, zoom=1)
    assert picture.shape[0] == 256 + 28 and picture.std() > 10


def test_bad_pictures_are_one_line_errors(tmp_path):
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(NobodyFound, match="blank.png: nobody found"):
        crop_of_picture(blank)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(RopeTPError, match="not an image"):
        crop_of_picture(tmp_path / "text.png")
    result = CliRunner().invoke(
        command, ["occlusion", str(tmp_path), "-o", str(tmp_path / "map.png")]
    )
    assert "no crop set" in str(result.exception)


def test_networks_of_one_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    found = SensitivityMap(np.zeros((17, 17)), 0.0)
    monkeypatch.setattr("ropetp_cli.evaluation.occlusion.sensitivity", lambda *rest: found)
    options = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rope.safetensors").symlink_to(find_weights("rope"))
        options += ["--weights", str(tmp_path / folder / "rope.safetensors")]
    out = str(tmp_path / "map.png")
    result = CliRunner().invoke(command, ["occlusion", str(BUS), *options, "-o", out, "--json"])
    assert json.loads(result.stdout).keys() == set(options[1::2])
