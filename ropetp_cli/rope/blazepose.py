"""The BlazePose landmark networks (lite, full, heavy) as one torch module driven by a graph spec.

The networks are Google's (Apache-2.0), published as ``pose_landmark_{lite,full,heavy}.tflite``.
:func:`import_tflite` reads such a file once, at training time (PyPI ``tflite``, extra ``train``);
:meth:`BlazePose.from_spec` rebuilds the module from a plain dict afterwards, so that inference
loads weights from safetensors with the spec in its metadata and needs neither.

Feature maps ("taps") of the heavy network, [channels, height, width] for one 256x256 crop; each
is the last map of its stage, before the next stage shrinks or widens it:

=========== ============== =====================================================================
tap         heavy          what it is
=========== ============== =====================================================================
encoder64   32, 64, 64     MobileNet-like encoder, linear bottlenecks after their residual sums
encoder32   56, 32, 32
encoder16   160, 16, 16
encoder8    272, 8, 8
decoder16   48, 16, 16     upsampled encoder8 plus lateral encoder16, and so on upwards
decoder32   48, 32, 32
decoder64   48, 64, 64     what the heatmap head reads: sharpest 2D evidence
pose32      96, 32, 32     the regression branch: decoder64 shrunk again, joined by encoder skips
pose16      192, 16, 16
pose8       288, 8, 8      joined by the 1632-channel end of the encoder
pose4       288, 4, 4
pose2       288, 2, 2      all that the landmark and world regressors see (one 2x2 convolution)
=========== ============== =====================================================================

In full and lite the regression branch starts at 8x8 straight from the encoder: they have no
``pose32``/``pose16``, decoder maps are 48/32 wide and pose maps 288/192. :meth:`BlazePose.trunk`
gives decoder64, pose32, pose16, pose8, pose2 (heavy) or decoder64, decoder32, decoder16, pose8,
pose2. Good picks for a pose head: pose8 and pose2 (3D), pose16 or decoder64 (2D, per-joint
sampling). The segmentation head runs only when asked for.

Against the tflite runtime on a real crop, fp32: landmarks within 5e-4 px, world within 2e-5 m.
Trunk time, ms a crop at batch 1 / 4 / 8, channels_last, a 2-core CPU with AMX, in bfloat16 all of
it (for what is half precision now, see :data:`HALF_PX`):

===== ===================== ==================== ====================
      dtype                 1 thread             2 threads
===== ===================== ==================== ====================
heavy fp32                  44 / 42 / 44         22 / 14 / 16
heavy bf16                  28 / 17 / 15         21 / 11 / 9
full  fp32                  11 / 9 / 13          7 / 4 / 7
full  bf16                  9 / 5 / 4            8 / 3 / 3
===== ===================== ==================== ====================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.depthwise import Depthwise

#: Side of the square RGB crop, px. Image landmarks are in these pixels.
CROP_SIZE = 256
NUM_LANDMARKS = 39
#: Maps wider than this are computed in single precision: Rope's size of a person would be off by
#: 1.7 % and its direction by 4 degrees, all in bfloat16, and are off by .3 % and 1.2 degrees.
HALF_PX = 32
#: The first 33 of the 39 landmarks; 33..38 are auxiliary (body centre, alignment points, hands).
LANDMARKS = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye",
    "right_eye_outer", "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_pinky",
    "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb", "left_hip",
    "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel",
    "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip

_INPUT = "image"
_OUTPUTS = {
    "Identity": "landmarks",
    "Identity_1": "presence",
    "Identity_2": "segmentation",
    "Identity_3": "heatmaps",
    "Identity_4": "world",
}
_ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}


class BlazePose(nn.Module):
    """A BlazePose landmark network whose structure is data.

    ``spec`` holds ``nodes`` (a list in execution order; each a dict with ``name``, ``op``,
    ``inputs``, ``shape`` [C, H, W] at batch 1 and the op's own fields), ``outputs`` (output name
    -> node name) and ``taps`` (feature name -> node name). Only the nodes that an asked output
    depends on are run, and maps are dropped after their last use.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = dict(spec)
        self.nodes: list[dict[str, Any]] = list(spec["nodes"])
        self.outputs: dict[str, str] = dict(spec["outputs"])
        self.taps: dict[str, str] = dict(spec["taps"])
        self._position = {node["name"]: index for index, node in enumerate(self.nodes)}
        self.convs = nn.ModuleDict()
        for node in self.nodes:
            if node["op"] != "conv":
                continue
            self.convs[node["name"]] = _conv(node)
        self._frozen = 0
        self._plans: dict[tuple[str, ...], list[tuple[int, tuple[str, ...]]]] = {}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any] | str) -> BlazePose:
        """A network with untrained weights from :meth:`spec_json`'s text or the dict it holds."""
        return cls(json.loads(spec) if isinstance(spec, str) else spec)

    def spec_json(self) -> str:
        """The graph as one line of JSON, for the metadata of a safetensors file."""
        return json.dumps(self.spec, separators=(",", ":"))

    def tap_shape(self, name: str) -> tuple[int, int, int]:
        """(C, H, W) of a tap or output at batch size 1."""
        return tuple(self.nodes[self._position[self._node_name(name)]]["shape"])

    @property
    def trunk_names(self) -> tuple[str, ...]:
        """The taps :meth:`trunk` returns, finest first."""
        names = ["decoder64"]
        for side in (32, 16):
            names.append(f"pose{side}" if f"pose{side}" in self.taps else f"decoder{side}")
        return (*names, "pose8", "pose2")

    def trunk(self, image: Tensor) -> list[Tensor]:
        """Maps for a pose head, 64, 32, 16, 8 and 2 px wide, finest first; no head is run."""
        maps = self.features(image, self.trunk_names)
        return [maps[name] for name in self.trunk_names]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Every output for RGB crops ``image`` [B, 3, 256, 256] in 0..1.

        ``landmarks`` [B, 39, 5]: x, y px, z (px, relative to the hips), visibility and presence
        logits; ``world`` [B, 39, 3] m from the hips' middle (x right, y down, z away);
        ``presence`` [B] probability of a person; ``segmentation`` [B, 1, 256, 256] and
        ``heatmaps`` [B, 39, 64, 64] logits.
        """
        return self.features(image, tuple(self.outputs))

    def features(self, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The named taps or outputs for crops [B, 3, 256, 256] in 0..1; runs nothing else."""
        wanted = {name: self._node_name(name) for name in names}
        values = {_INPUT: image}
        for index, spent in self._plan(tuple(sorted(set(wanted.values())))):
            node = self.nodes[index]
            inputs = [values[key] for key in node["inputs"]]
            if index < self._frozen:
                values[node["name"]] = self._run_frozen(node, inputs)
            else:
                values[node["name"]] = self._run(node, [_single(value) for value in inputs])
            for key in spent:
                del values[key]
        return {name: self._shaped(name, _single(values[key])) for name, key in wanted.items()}

    def train_after(self, tap: str | None) -> None:
        """Train what comes after ``tap`` only; all of the network for None.

        What comes before runs without gradients.
        """
        self._frozen = self._position[self._node_name(tap)] + 1 if tap else 0
        for index, node in enumerate(self.nodes):
            if node["op"] == "conv":
                self.convs[node["name"]].requires_grad_(index >= self._frozen)

    @torch.no_grad()
    def _run_frozen(self, node: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        return self._run(node, inputs)

    def _shaped(self, name: str, value: Tensor) -> Tensor:
        if name == "landmarks":
            return value.reshape(-1, NUM_LANDMARKS, 5)
        if name == "world":
            return value.reshape(-1, NUM_LANDMARKS, 3)
        return value.reshape(-1) if name == "presence" else value

    def _node_name(self, name: str) -> str:
        key = self.taps.get(name) or self.outputs.get(name)
        if key is None:
            known = ", ".join([*self.outputs, *self.taps])
            raise RopeTPError(f"BlazePose has no feature '{name}'; choose among {known}")
        return key

    def _plan(self, targets: tuple[str, ...]) -> list[tuple[int, tuple[str, ...]]]:
        """Node indices to run for ``targets``, each with the values that it uses last."""
        if targets in self._plans:
            return self._plans[targets]
        needed, stack = set(), list(targets)
        while stack:
            name = stack.pop()
            if name != _INPUT and name not in needed:
                needed.add(name)
                stack.extend(self.nodes[self._position[name]]["inputs"])
        order = sorted(self._position[name] for name in needed)
        kept, plan = set(targets), []
        for index in reversed(order):
            spent = tuple(set(self.nodes[index]["inputs"]) - kept)
            kept.update(spent)
            plan.append((index, spent))
        self._plans[targets] = plan[::-1]
        return self._plans[targets]

    def _convolved(self, node: dict[str, Any], x: Tensor) -> Tensor:
        """Where autocast asks for half precision, training has all in it, frozen stages too;
        otherwise only what it makes faster and errs by little is: matrices over the channels, after
        the first stage."""
        conv = self.convs[node["name"]]
        if self.training or (node["kernel"] == [1, 1] and node["shape"][-1] <= HALF_PX):
            return conv(x)
        with torch.autocast(x.device.type, enabled=False):
            return conv(x.float())

    def _run(self, node: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        match node["op"]:
            case "conv":
                if not _is_symmetric(node["pad"]):
                    top, bottom, left, right = node["pad"]
                    x = F.pad(x, (left, right, top, bottom))
                return _activate(self._convolved(node, x), node["activation"])
            case "add":
                return _activate(x + inputs[1], node["activation"])
            case "max_pool":
                return F.max_pool2d(x, node["kernel"], node["stride"])
            case "resize":
                return F.interpolate(x, node["shape"][1:], mode="bilinear", align_corners=False)
            case "pad_channels":
                return F.pad(x, (0, 0, 0, 0, *node["pad"]))
            case "sigmoid":
                return x.sigmoid()
        raise RopeTPError(f"the BlazePose graph holds an unknown operation '{node['op']}'")


def keep_only(net: BlazePose, names: Sequence[str]) -> BlazePose:
    """A network that computes the named taps and outputs alone, without the weights of the rest."""
    wanted = {name: net._node_name(name) for name in names}
    nodes = [net.nodes[index] for index, _ in net._plan(tuple(sorted(set(wanted.values()))))]
    held = {node["name"] for node in nodes}
    spec = {
        **net.spec,
        "nodes": nodes,
        "outputs": {name: node for name, node in net.outputs.items() if node in held},
        "taps": {name: node for name, node in net.taps.items() if node in held},
    }
    smaller = BlazePose(spec)
    own = smaller.state_dict()
    smaller.load_state_dict({name: net.state_dict()[name] for name in own})
    return smaller


def _conv(node: Mapping[str, Any]) -> nn.Conv2d:
    pad, kernel, stride = node["pad"], tuple(node["kernel"]), tuple(node["stride"])
    padding = pad[0] if _is_symmetric(pad) else 0
    if node["groups"] == node["in_channels"] and (stride[0] > 1 or (kernel[0], padding) == (5, 2)):
        return Depthwise(node["in_channels"], kernel[0], stride[0], padding)
    return nn.Conv2d(
        node["in_channels"],
        node["shape"][0],
        kernel,
        stride=stride,
        padding=(pad[0], pad[2]) if _is_symmetric(pad) else 0,
        groups=node["groups"],
    )


def _single(value: Tensor) -> Tensor:
    """In single precision, unless autocast has the say."""
    return value if torch.is_autocast_enabled(value.device.type) else value.float()


def _is_symmetric(pad: Sequence[int]) -> bool:
    return pad[0] == pad[1] and pad[2] == pad[3]


def _activate(x: Tensor, kind: str) -> Tensor:
    if kind == "relu":
        return F.relu(x)
    return F.relu6(x) if kind == "relu6" else x


def import_tflite(path: str | Path) -> BlazePose:
    """The network in a ``pose_landmark_*.tflite`` file, with its weights, as float32.

    Raises :class:`RopeTPError` where the file is missing, the ``tflite`` package is not
    installed, or the graph holds something that BlazePose's do not.
    """
    try:
        import tflite
    except ImportError as error:
        raise RopeTPError("reading .tflite files needs: pip install 'ropetp[train]'") from error
    path = Path(path)
    if not path.is_file():
        raise RopeTPError(f"{path}: no such BlazePose file; take it from npm @mediapipe/pose")
    return _Importer(tflite, path).build()


class _Importer:
    """Turns one flatbuffer graph (NHWC, fp16 weights) into a spec and float32 weights (NCHW)."""

    def __init__(self, tflite: Any, path: Path) -> None:
        import numpy as np

        self.np, self.tflite, self.path = np, tflite, path
        self.model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
        self.graph = self.model.Subgraphs(0)
        self.codes = {
            value: key for key, value in vars(tflite.BuiltinOperator).items() if type(value) is int
        }
        self.constants = self._read_constants()
        self.alias: dict[int, int] = {}
        self.padding: dict[int, list[int]] = {}
        self.nodes: list[dict[str, Any]] = []
        self.weights: dict[str, Tensor] = {}

    def _read_constants(self) -> dict[int, Any]:
        np, graph = self.np, self.graph
        types = {0: np.float32, 1: np.float16, 2: np.int32, 4: np.int64}
        constants = {}
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            data = self.model.Buffers(tensor.Buffer())
            if data.DataLength():
                flat = np.frombuffer(data.DataAsNumpy().tobytes(), types[tensor.Type()])
                shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
                constants[index] = flat.reshape(shape)
        return constants

    def build(self) -> BlazePose:
        graph = self.graph
        self.input = int(graph.Inputs(0))
        for index in range(graph.OperatorsLength()):
            self._read(graph.Operators(index))
        outputs = {}
        for k in range(graph.OutputsLength()):
            index = int(graph.Outputs(k))
            outputs[_OUTPUTS[graph.Tensors(index).Name().decode()]] = self._name(index)
        spec = {
            "variant": self.path.stem.removeprefix("pose_landmark_"),
            "nodes": self.nodes,
            "outputs": outputs,
            "taps": _find_taps(self.nodes, outputs),
        }
        network = BlazePose(spec)
        network.load_state_dict(self.weights)
        return network.eval()

    def _name(self, index: int) -> str:
        while index in self.alias:
            index = self.alias[index]
        return _INPUT if index == self.input else f"n{index}"

    def _shape(self, index: int) -> list[int]:
        _, height, width, channels = (int(n) for n in self.graph.Tensors(index).ShapeAsNumpy())
        return [channels, height, width]

    def _options(self, operator: Any, kind: str) -> Any:
        options, table = getattr(self.tflite, kind)(), operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    def _read(self, operator: Any) -> None:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        kind = self.codes[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = [int(i) for i in operator.InputsAsNumpy()]
        output = int(operator.Outputs(0))
        match kind:
            case "DEQUANTIZE":
                self.constants[output] = self.constants[inputs[0]].astype(self.np.float32)
            case "RESHAPE":
                self.alias[output] = inputs[0]
            case "PAD":
                self._read_pad(inputs, output)
            case "CONV_2D" | "DEPTHWISE_CONV_2D":
                self._read_conv(operator, kind, inputs, output)
            case "ADD":
                fused = self._options(operator, "AddOptions").FusedActivationFunction()
                self._emit("add", inputs, output, activation=_ACTIVATIONS[fused])
            case "MAX_POOL_2D":
                pool = self._options(operator, "Pool2DOptions")
                kernel = [pool.FilterHeight(), pool.FilterWidth()]
                stride = [pool.StrideH(), pool.StrideW()]
                if any(self._same_pad(inputs[0], kernel, stride)):
                    raise RopeTPError(f"{self.path}: padded max pooling; not a BlazePose network")
                self._emit("max_pool", inputs, output, kernel=kernel, stride=stride)
            case "RESIZE_BILINEAR":
                resize = self._options(operator, "ResizeBilinearOptions")
                if resize.AlignCorners() or not resize.HalfPixelCenters():
                    raise RopeTPError(f"{self.path}: resizes by corners; not a BlazePose network")
                self._emit("resize", inputs[:1], output)
            case "LOGISTIC":
                self._emit("sigmoid", inputs, output)
            case _:
                raise RopeTPError(f"{self.path}: holds {kind}; not a BlazePose network")

    def _emit(self, op: str, inputs: list[int], output: int, **fields: Any) -> None:
        names = [self._name(index) for index in inputs]
        node = {"name": self._name(output), "op": op, "inputs": names}
        self.nodes.append({**node, "shape": self._shape(output), **fields})

    def _read_pad(self, inputs: list[int], output: int) -> None:
        """Spatial zeros go to the convolution that follows; channels become a node."""
        _, rows, columns, channels = self.constants[inputs[1]].tolist()
        if any(channels):
            self._emit("pad_channels", inputs[:1], output, pad=channels)
        else:
            self.alias[output] = inputs[0]
            self.padding[output] = [*rows, *columns]

    def _same_pad(self, index: int, kernel: list[int], stride: list[int]) -> list[int]:
        pad = []
        for size, k, s in zip(self._shape(index)[1:], kernel, stride, strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0)
            pad += [total // 2, total - total // 2]
        return pad

    def _read_conv(self, operator: Any, kind: str, inputs: list[int], output: int) -> None:
        depthwise = kind == "DEPTHWISE_CONV_2D"
        conv = self._options(operator, "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions")
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        weight = self.constants[inputs[1]].astype(self.np.float32).transpose(order)
        kernel, stride = list(weight.shape[2:]), [conv.StrideH(), conv.StrideW()]
        pad = self.padding.get(inputs[0], [0, 0, 0, 0])
        if conv.Padding() == 0:
            pad = self._same_pad(inputs[0], kernel, stride)
        self._emit(
            "conv",
            inputs[:1],
            output,
            in_channels=weight.shape[0] if depthwise else weight.shape[1],
            kernel=kernel,
            stride=stride,
            pad=pad,
            groups=weight.shape[0] if depthwise else 1,
            activation=_ACTIVATIONS[conv.FusedActivationFunction()],
        )
        bias = self.constants[inputs[2]].astype(self.np.float32)
        name = f"convs.{self._name(output)}"
        self.weights[f"{name}.weight"] = torch.from_numpy(weight.copy())
        self.weights[f"{name}.bias"] = torch.from_numpy(bias.copy())


def _ancestors(nodes: Iterable[dict[str, Any]], target: str) -> set[str]:
    inputs = {node["name"]: node["inputs"] for node in nodes}
    found, stack = set(), [target]
    while stack:
        name = stack.pop()
        if name not in found and name != _INPUT:
            found.add(name)
            stack.extend(inputs[name])
    return found


def _find_taps(nodes: list[dict[str, Any]], outputs: Mapping[str, str]) -> dict[str, str]:
    """Names the maps worth tapping by their place in the graph (module docstring)."""
    to_heatmaps = _ancestors(nodes, outputs["heatmaps"])
    to_landmarks = _ancestors(nodes, outputs["landmarks"])
    upsampled, taps = set(), {}
    for node in nodes:
        name, side = node["name"], node["shape"][1]
        if node["op"] == "resize" or upsampled.intersection(node["inputs"]):
            upsampled.add(name)
        if name in outputs.values():
            continue
        if name in to_heatmaps and node["op"] == "add":
            taps[f"{'decoder' if name in upsampled else 'encoder'}{side}"] = name
        elif name in to_landmarks and name not in to_heatmaps:
            taps[f"pose{side}"] = name
    return taps
