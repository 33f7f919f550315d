"""MoveNet: read from the published layout, and whose keypoints it takes."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from ultralytics.utils import ASSETS

from ropetp_cli.errors import RopeTPError
from ropetp_cli.people.crops import crop_batch, keypoints_to_crop
from ropetp_cli.people.detector import Detector, crowded
from ropetp_cli.rope.movenet import MoveNet, load_movenet
from ropetp_cli.rope.predictor import LESS_SURE, disentangled
from ropetp_cli.training.movenet import import_movenet, main
from ropetp_cli.weights import find_weights


@pytest.fixture(scope="module")
def movenet() -> MoveNet:
    return load_movenet(find_weights("keypoints"))


def publish(net: MoveNet, path) -> None:
    """``net`` as a TensorFlow.js graph model with the names the published one has."""
    heads = {"heatmaps": "kpt_heatmap_0", "center": "center_0", "regress": "kpt_regress_0",
             "offset": "kpt_offset_0"}  # fmt: skip
    nodes, entries, data = [], [], b""
    for name, layer in net.named_modules():
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        depthwise = layer.groups > 1
        part, *rest = name.split(".")
        if part in ("stem", "stages", "end"):
            where = f"x/model_1/model/{name}"
        elif part == "heads":
            where = f"x/{heads[rest[0]]}/{name}"
        elif part == "down":
            where = f"x/model_1/{'separable_conv2d' if depthwise else 're_lu'}_{name}"
        else:  # the graph counts laterals from fine to coarse, and calls the top the first
            number = "" if part == "top" else f"_{int(rest[0]) + 1}"
            where = f"x/model_1/conv2d{number}/BiasAdd"
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        given = [layer.weight.permute(axes), *([] if layer.bias is None else [layer.bias])]
        for k, values in enumerate(given):
            stored = {"dtype": "float16", "original_dtype": "float32"}
            entries.append({"name": f"{name}/{k}", "shape": list(values.shape),
                            "dtype": "float32", "quantization": stored})  # fmt: skip
            data += values.detach().half().numpy().tobytes()
        kind = "FusedDepthwiseConv2dNative" if depthwise else "_FusedConv2D"
        inputs = ["before", *(f"{name}/{k}" for k in range(len(given)))]
        nodes.append({"name": where, "op": kind, "input": inputs})
    nodes.append({"name": "add", "op": "AddV2", "input": ["a", "b"]})
    path.write_text(json.dumps({"modelTopology": {"node": nodes},
                                "weightsManifest": [{"weights": entries}]}))  # fmt: skip
    path.with_suffix(".bin").write_bytes(data)


def test_the_published_layout_is_read_to_the_last_weight(tmp_path):
    torch.manual_seed(0)
    net = MoveNet()
    published, out = tmp_path / "movenet-thunder.json", tmp_path / "net.safetensors"
    publish(net, published)
    read = import_movenet(published).state_dict()
    for name, value in net.state_dict().items():
        assert torch.equal(read[name], value.half().float()), name
    with pytest.raises(RopeTPError, match="movenet-thunder.bin: not the published weights"):
        main([str(published), str(out)])
    assert not out.exists()


def test_another_graph_is_refused_in_one_line(tmp_path):
    path = tmp_path / "graph.json"
    with pytest.raises(RopeTPError, match="graph.json: no graph model"):
        import_movenet(path)
    publish(MoveNet(), path)
    path.write_text(re.sub("conv2d_2/BiasAdd", "conv2d_9/BiasAdd", path.read_text()))
    with pytest.raises(RopeTPError, match=r"not the graph of MoveNet Thunder \(lateral\)"):
        import_movenet(path)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(RopeTPError, match="no weights of MoveNet"):
        load_movenet(tmp_path / "text.safetensors")


def test_halving_pads_as_tensorflow_does(movenet):
    """A filter that is 1 in its middle takes the pixels of odd numbers: 1, 3, 5, ..."""
    first = movenet.stem[0]
    layer = type(first)(1, 1, 3, 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()[0, 0, 1, 1] = 1
        image = torch.arange(64.0).reshape(1, 1, 8, 8)
        assert torch.equal(layer(image), image[..., 1::2, 1::2])


def test_sees_the_one_who_is_meant(movenet):
    """Of people who stand side by side, in a crop of two, whose keypoints are hinted at."""
    frame = cv2.imread(str(ASSETS / "bus.jpg"))
    found = Detector().detect(frame)
    rows = np.argsort(found.boxes[:, 0])[1:3]  # the two on the left who are whole
    boxes = found.boxes[rows]
    both = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    crop, center, size = crop_batch(frame, both[None])
    hints = keypoints_to_crop(found.keypoints[rows], center.repeat(2, 0), size.repeat(2, 0))
    image = torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        seen = movenet(image.expand(2, -1, -1, -1), torch.from_numpy(hints).float()).numpy()
    for own, other, marks in zip(hints, hints[::-1], seen, strict=True):
        sure = (own[:, 2] > 0.8) & (marks[:, 2] > 0.4)
        assert sure.sum() >= 6
        off = [np.linalg.norm(marks[sure, :2] - k[sure, :2], axis=1).mean() for k in (own, other)]
        assert off[0] < 0.06 < 0.15 < off[1]


def test_nobody_hinted_at_is_nobody_seen(movenet):
    image = torch.rand(2, 3, 256, 256)
    hints = torch.zeros(2, 17, 3)
    hints[1] = torch.tensor([0.0, 0.0, 0.9])
    with torch.inference_mode():
        seen = movenet(image, hints)
        alone = movenet(image)
    assert not seen[0].any() and seen[1].any() and alone[0].any()
    assert ((alone[..., 2] >= 0) & (alone[..., 2] <= 1)).all()


def test_of_people_before_one_another_the_detector_says_whose_a_limb_is(movenet):
    detected = np.zeros((2, 17, 3))
    detected[..., 2] = 0.9
    detected[:, 5, 2] = 0.3
    marked = detected.copy()
    marked[:, 4:8, 0] += [0.05, 0.3, 0.3, 0.05]  # one of those far apart the detector doubts
    marked[..., 2] = 0.7
    found = disentangled(marked, detected)
    np.testing.assert_array_equal(found[:, 6], [[0, 0, 0.9 * LESS_SURE]] * 2)
    rest = [k for k in range(17) if k != 6]
    np.testing.assert_array_equal(found[:, rest], marked[:, rest])


def test_only_whose_box_is_shared_is_in_a_crowd():
    boxes = np.array([[0, 0, 100, 200], [90, 0, 130, 200], [300, 0, 400, 200.0]])
    assert crowded(boxes).tolist() == [False, True, False]
    assert crowded(boxes[:1]).tolist() == [False] and crowded(boxes[:0]).tolist() == []
