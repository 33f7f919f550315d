"""Rope over time (beyond the paper): one picture cannot tell how far a limb points at the camera,
the pictures before and after it can.

A stack of dilated convolutions over time sees a second before and after every frame: the pose Rope
answered, keypoints, how sure Rope is, and how the person moves before a camera that
keeps its place. It says what to add to every joint's rotation in the crop, and which way is up
there: bodies balance. It knows no positions in time and no start: any length works, in pieces as
whole.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from ropetp_cli.body.rot6d import forward_kinematics, rot6d_to_matrix
from ropetp_cli.body.rotations import axis_angle_to_matrix, local_to_global
from ropetp_cli.body.rotations import matrix_to_rot6d as numpy_rot6d
from ropetp_cli.body.skeleton import LIMB_KEYPOINTS, LIMBS, NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError, first_line
from ropetp_cli.rope.alignment import bend, turn
from ropetp_cli.rope.network import posed
from ropetp_cli.rope.predictor import CropPoses

FORMAT = "ropetp-temporal-2"
#: The window, s, over which a pelvis's speed is taken.
SPEED_SIGMA = 0.1
#: Where limbs lie farther from sure keypoints than those of Rope's own answer do, by more than the
#: first figure, m, that answer counts; beyond the second, alone.
CONTRADICTED = (0.1, 0.2)
#: A keypoint this sure, and so many of them, may contradict; what they say holds for a time, s.
SURE, ENOUGH, CONTRADICTED_SIGMA = 0.5, 4, 0.05
#: rad: how far off the first guess of up may be, a level camera; the least that a guess is off.
UP_ERROR, LEAST_UP_ERROR = 0.1, 0.01
#: Whose balance tells a camera that looks farther down than it does is seen to lean by so much of
#: the difference; over so long, s, by the same.
LEANS, LEANS_SIGMA = 0.7, 0.5
#: How much more the answer counts than its errors by themselves say when it is bent to the picture;
#: in so many steps, by what stays over so long, s.
BENT_TRUST, BENT_STEPS, BENT_SIGMA = 2.0, 2, 0.1
#: 1 / rad^2: answers stay as they are until it is measured how they err (``training.stiffness``).
UNMEASURED = 1e9
_KEYPOINTS = list(LIMB_KEYPOINTS)
_FEATURES = NUM_JOINTS * (6 + 3 + 1) + 17 * 3 + 4


@dataclass(frozen=True)
class TemporalConfig:
    """How a :class:`TemporalRope` is built; stored with its weights. ``dilations`` of its blocks,
    in frames at ``fps``."""

    width: int = 256
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    fps: float = 30.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(self.dilations))


@dataclass
class Frames:
    """B sequences of N frames as Rope saw them: columns [B, N, 24, 6], rot6d of the joints'
    rotations in crop axes; rest [B, 24, 3] m; keypoints [B, N, 17, 3], metres about the pelvis
    (zeros where not seen) and confidence; confidence [B, N, 24]; velocity [B, N, 3] of the pelvis
    in crop axes, m/s, and steady [B], 1 where that is known and 0 where the camera moves."""

    columns: Tensor
    rest: Tensor
    keypoints: Tensor
    confidence: Tensor
    velocity: Tensor
    steady: Tensor

    def at(self, times: np.ndarray) -> "Frames":
        """The frames at ``times`` [M], 0 to N - 1. A keypoint counts where it was seen before and
        after."""
        over = ("columns", "keypoints", "confidence", "velocity")
        new = {name: between(getattr(self, name), times) for name in over}
        seen = between((self.keypoints[..., 2:] > 0).float(), times) > 0.999
        new["keypoints"] = new["keypoints"] * seen
        return Frames(rest=self.rest, steady=self.steady, **new)

    def to(self, device: torch.device) -> "Frames":
        return Frames(*(value.to(device) for value in vars(self).values()))

    def features(self) -> Tensor:
        """[B, N, 295], all of about unit size."""
        batch, count = self.columns.shape[:2]
        rest = self.rest[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        joints = place(self.columns.flatten(0, 1), rest).view(batch, count, -1)
        steady = self.steady[:, None, None].expand(-1, count, 1)
        parts = [
            self.columns.flatten(2), 2 * joints, 2 * self.keypoints[..., :2].flatten(2),
            self.keypoints[..., 2], self.confidence, self.velocity * steady, steady,
        ]  # fmt: skip
        return torch.cat(parts, -1)


def place(columns: Tensor, rest: Tensor) -> Tensor:
    """Joints about the pelvis [B, 24, 3] m, from rot6d of their rotations in the crop [B, 24, 6]
    and rest joints [B, 24, 3] m."""
    return forward_kinematics(to_local(columns), rest - rest[:, :1])[0]


def to_local(columns: Tensor) -> Tensor:
    """rot6d of rotations in the crop [..., 24, 6] -> rotations to the parent [..., 24, 3, 3]."""
    turns = rot6d_to_matrix(columns)
    local = turns[..., list(PARENTS[1:]), :, :].mT @ turns[..., 1:, :, :]
    return torch.cat([turns[..., :1, :, :], local], -3)


class Block(nn.Module):
    """What the frames ``dilation`` before and after add to a frame."""

    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.reach = dilation
        self.norm = nn.LayerNorm(width)
        self.near = nn.Conv1d(width, width, 3, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, N] -> the same; beyond the ends, the end."""
        y = F.pad(self.norm(x.mT).mT, (self.reach, self.reach), mode="replicate")
        return x + self.drop(self.mix(F.gelu(self.near(y))))


@dataclass
class Answer:
    """What the frames around say: ``columns`` [B, N, 24, 6], rot6d of the joints' rotations in crop
    axes, not yet orthonormal; ``up`` [B, N, 3], a unit vector in crop axes, and ``up_error``
    [B, N, 2] rad, how far off it may be: in roll, sideways in the picture, and in pitch."""

    columns: Tensor
    up: Tensor
    up_error: Tensor


class TemporalRope(nn.Module):
    """Rope's answers, put right by the frames around."""

    def __init__(self, config: TemporalConfig | None = None):
        super().__init__()
        self.config = config = config or TemporalConfig()
        self.enter = nn.Conv1d(_FEATURES, config.width, 1)
        self.blocks = nn.ModuleList(
            Block(config.width, dilation, config.dropout) for dilation in config.dilations
        )
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, NUM_JOINTS * 6)
        self.upright = nn.Linear(config.width, 5)
        self.register_buffer("stiffness", UNMEASURED * torch.eye(3 * NUM_JOINTS))
        for layer in (self.leave, self.upright):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def reach(self) -> int:
        """How many frames before and after a frame matter to it."""
        return sum(self.config.dilations)

    def forward(self, frames: Frames) -> Answer:
        x = self.enter(frames.features().mT)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x.mT)
        change = self.leave(x).unflatten(-1, (NUM_JOINTS, 6))
        up = self.upright(x)
        level = up.new_tensor([0.0, -1.0, 0.0])
        error = LEAST_UP_ERROR + UP_ERROR * up[..., 3:].clamp(-5, 3).exp()
        return Answer(frames.columns + change, F.normalize(level + up[..., :3], dim=-1), error)


def as_seen(
    answer: CropPoses,
    turn: np.ndarray,
    pelvis: np.ndarray,
    rest: np.ndarray,
    fps: float,
    steady: bool = True,
) -> Frames:
    """One person's N frames. ``turn`` [N, 3, 3] from each crop's axes to the camera's; ``pelvis``
    [N, 3] m before the camera; ``rest`` [24, 3] m; ``steady`` where the camera keeps its place and
    direction."""
    scale, shift = answer.cam[:, None, :1], answer.cam[:, None, 1:]
    keypoints = answer.keypoints
    found = keypoints[..., 2:] > 0
    placed = np.where(found, keypoints[..., :2] / scale - shift, 0)
    velocity = speed_in_crops(pelvis, turn, fps)
    columns = numpy_rot6d(local_to_global(answer.rotations))
    placed = np.concatenate([placed, keypoints[..., 2:]], axis=-1)
    given = (columns, rest, placed, answer.confidence, velocity, np.asarray(float(steady)))
    return Frames(*(torch.as_tensor(value, dtype=torch.float32)[None] for value in given))


def speed_in_crops(pelvis: np.ndarray, turn: np.ndarray, fps: float) -> np.ndarray:
    """How a pelvis [N, 3] m before the camera moves, m/s, [N, 3] in crop axes, which ``turn``
    [N, 3, 3] takes to the camera's."""
    if len(pelvis) < 2:
        return np.zeros_like(pelvis)
    way = gaussian_filter1d(pelvis, SPEED_SIGMA * fps, axis=0, mode="nearest")
    return np.einsum("nji,nj->ni", turn, np.gradient(way, axis=0) * fps)


@dataclass
class Refined:
    """One person's N frames: ``rotations`` [N, 24, 3, 3] to the parent, the pelvis's in crop axes;
    ``up`` [N, 3] there and ``up_error`` [N, 2] rad as in :class:`Answer`."""

    rotations: np.ndarray
    up: np.ndarray
    up_error: np.ndarray

    def leaning(self, up: np.ndarray, fps: float) -> "Refined":
        """The same person where ``up`` [N, 3] in crop axes is known better, from all people and how
        cameras are held. A leg that looks short may be one, or point away from the camera: who was
        taken to lean told, by the same error, a camera that looks down, and stands up with it."""
        axis = np.cross(self.up, up)
        sine, cosine = np.linalg.norm(axis, axis=1), (self.up * up).sum(axis=1)
        pitch = axis[:, 0] / np.maximum(sine, 1e-9) * np.arctan2(sine, cosine)
        known = 1 - self.up_error[:, 1] / np.pi
        pitch = gaussian_filter1d(LEANS * known * pitch, LEANS_SIGMA * fps, mode="nearest")
        rotations = self.rotations.copy()
        about = np.stack([pitch, 0 * pitch, 0 * pitch], axis=1)
        rotations[:, 0] = axis_angle_to_matrix(about) @ rotations[:, 0]
        return replace(self, rotations=rotations)


class TemporalRefiner:
    """Runs a :class:`TemporalRope` on the answers of Rope for one person."""

    #: Frames at a time.
    PIECE = 2000

    def __init__(self, model: TemporalRope, device: str = "cpu"):
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def refine(self, frames: Frames, fps: float) -> Refined:
        """One person's ``frames`` at ``fps``. Where the new pose contradicts the keypoints and
        Rope's own does not, that one, and nobody knows which way is up."""
        count = frames.columns.shape[1]
        own = max(round((count - 1) * self.model.config.fps / fps) + 1, 1)
        there = np.linspace(0, count - 1, own)
        back = np.linspace(0, own - 1, count) if count > 1 else np.zeros(1)
        even = frames.at(there)
        reach, change, upright = self.model.reach, [], []
        for start in range(0, own, self.PIECE):
            first, last = max(start - reach, 0), min(start + self.PIECE + reach, own)
            piece = even.at(np.arange(first, last)).to(self.device)
            found = self.model(piece)
            wanted = slice(start - first, start - first + self.PIECE)
            change.append((found.columns - piece.columns)[:, wanted].cpu())
            upright.append(torch.cat([found.up, found.up_error], -1)[:, wanted].cpu())
        columns = frames.columns + between(torch.cat(change, 1), back)
        up = between(torch.cat(upright, 1), back)[0]
        share = contradicted(columns, frames, fps)
        columns = torch.lerp(columns[0], frames.columns[0], share[:, None, None])
        return Refined(
            to_local(columns).double().numpy(),
            F.normalize(up[:, :3], dim=-1).double().numpy(),
            torch.lerp(up[:, 3:], torch.tensor(torch.pi), share[:, None]).double().numpy(),
        )

    @torch.inference_mode()
    def bent(
        self, found: Refined, answer: CropPoses, rest: np.ndarray, widths: np.ndarray, fps: float
    ) -> Refined:
        """What was ``found`` of one person with ``rest`` joints [24, 3] m, bent to where joints
        were seen in ``answer``, whose crops are ``widths`` [N] m wide at one metre: the frames
        around know how limbs move, the picture where they are."""
        given = found.rotations, answer.cam, answer.evidence, widths
        rotations, cam, evidence, widths = (torch.as_tensor(np.asarray(v, float)) for v in given)
        rest = torch.as_tensor(rest).expand(len(cam), -1, -1)
        stiffness = BENT_TRUST * self.model.stiffness.cpu()
        turns = []
        for start in range(0, len(cam), self.PIECE):
            part = slice(start, start + self.PIECE)
            seen = evidence[part, :, :2], evidence[part, :, 2].log(), widths[part] / 2
            pose = rotations[part], cam[part], rest[part]
            turns.append(bend(*pose, *seen, stiffness, BENT_STEPS)[2])
        steady = gaussian_filter1d(torch.cat(turns), BENT_SIGMA * fps, axis=0, mode="nearest")
        accumulated = posed(rotations, rest)[1]
        return replace(
            found, rotations=turn(rotations, accumulated, torch.from_numpy(steady)).numpy()
        )


def contradicted(columns: Tensor, frames: Frames, fps: float) -> Tensor:
    """How far the keypoints contradict ``columns`` [1, N, 24, 6] more than the answers in
    ``frames``, [N] 0..1; where few are sure, as before and after."""
    found = frames.keypoints[0, :, _KEYPOINTS]
    weight = (found[..., 2] >= SURE) * found[..., 2]
    told = ((weight > 0).sum(1) >= ENOUGH).numpy()
    if not told.any():
        return torch.zeros(len(found))

    def off(columns: Tensor) -> np.ndarray:
        joints = place(columns[0], frames.rest.expand(len(found), -1, -1))[:, LIMBS, :2]
        share = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
        apart = joints - found[..., :2]
        apart = apart - (share[..., None] * apart).sum(1, keepdim=True)
        return (share * apart.norm(dim=-1)).sum(1).numpy()

    low, high = CONTRADICTED
    excess = np.clip((off(columns) - off(frames.columns) - low) / (high - low), 0, 1)
    rows = np.arange(len(found))
    excess = np.interp(rows, rows[told], excess[told])
    excess = gaussian_filter1d(excess, CONTRADICTED_SIGMA * fps, mode="nearest")
    return torch.as_tensor(excess, dtype=columns.dtype)


def between(values: Tensor, times: np.ndarray) -> Tensor:
    """Values [B, N, ...] at ``times`` [M] in frames, 0 to N - 1, [B, M, ...]."""
    before = np.minimum(times.astype(int), max(values.shape[1] - 2, 0))
    after = np.minimum(before + 1, values.shape[1] - 1)
    part = torch.as_tensor(times - before, dtype=values.dtype)
    return torch.lerp(values[:, before], values[:, after], part.view(-1, *[1] * (values.ndim - 2)))


def save_temporal(model: TemporalRope, path: str | Path) -> None:
    """Write weights (fp16; the stiffness, fp32) and the configuration that builds the network
    again."""
    metadata = {"format": FORMAT, "config": json.dumps(asdict(model.config))}
    tensors = {
        name: (value if name == "stiffness" else value.half()).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(tensors, str(path), metadata)


def load_temporal(path: str | Path) -> TemporalRope:
    """A TemporalRope in evaluation mode from a ``.safetensors`` file, on the CPU in fp32.

    Raises RopeTPError when the file is missing or is not a TemporalRope's.
    """
    path = Path(path)
    if not path.is_file():
        raise RopeTPError(f"{path}: no such weights; run `ropetp doctor`")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise KeyError(f"format {metadata.get('format')!r}, expected {FORMAT!r}")
            model = TemporalRope(TemporalConfig(**json.loads(metadata["config"])))
            state = {name: file.get_tensor(name).float() for name in file.keys()}
            model.load_state_dict({"stiffness": model.stiffness} | state)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RopeTPError(
            f"{path}: not a TemporalRope weight file ({first_line(error)})"
        ) from error
    return model.eval()
