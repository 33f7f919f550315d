"""TrajDenoiser (paper sections 3.3 and 3.4): the clean root path from a noisy one and the joints.

As the paper has it: 12 transformer layers of 8 heads, a linear condition encoder on the
root-relative joints, condition and noisy path mapped to one width and concatenated, the clean
path predicted. "Default skip connections" is read as in motion diffusion practice: besides the
residual connections, the output of layer i joins the input of layer 13 - i (U-shaped).

Where the paper is silent:

- The condition of a frame holds its joints and their differences to neighbouring frames. The
  encoder stays linear, and a velocity need not be dug out of positions a hundred times larger.
- The head says how the path moves, not where it is: for every frame, how far each joint may be
  taken as fixed in the world (a softmax; the pelvis, which never moves, stands for "none"), plus
  a free rest. The path is the sum of the movements, so that nothing depends on where it started.
- The height is seen in two ways, as a movement and as a distance to the floor. The path follows
  the first over short times and the second over long ones, and the head says frame by frame how
  firmly the floor holds it: it can climb a ladder and cannot sink in a walk.
- Positions enter the attention as rotary embeddings: any length works.

The paper's other choices are options of :class:`TrajConfig`. With ``condition="rot6d"`` the tokens
come from the joints' rotations instead of their places; the head goes on reading the places, which
a body has with any condition. With ``output="xyz"`` there is no such head: the network names the
place itself, as in the paper, and no place of a joint reaches the path but through the tokens.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ropetp_cli.body.skeleton import ANKLES, FEET, NUM_JOINTS
from ropetp_cli.errors import RopeTPError, first_line

FORMAT = "ropetp-trajectory-1"
CONDITIONS = ("joints", "rot6d")
OUTPUTS = ("pivots", "xyz")


@dataclass(frozen=True)
class TrajConfig:
    """How a TrajDenoiser is built; stored with its weights.

    ``window`` is the number of frames it was trained on and ``fps`` their rate; ``diffusion_steps``
    and ``schedule`` belong to :class:`~ropetp_cli.trajectory.diffusion.Diffusion`; a path is
    diffused as (metres - (0, ``height_center``, 0)) / ``path_scale``; ``firm_seconds`` and
    ``loose_seconds`` are the times after which the height follows the floor rather than the sum
    of movements, where the floor holds it most and least. ``condition`` is what the tokens are
    made of, ``joints`` (places) or ``rot6d`` (rotations); ``output`` what the head says,
    ``pivots`` (how the path moves) or ``xyz`` (where it is).
    """

    layers: int = 12
    heads: int = 8
    width: int = 128
    feedforward: int = 256
    window: int = 120
    fps: float = 30.0
    diffusion_steps: int = 1000
    schedule: str = "cosine"
    path_scale: float = 1.0
    height_center: float = 0.9
    firm_seconds: float = 0.5
    loose_seconds: float = 10.0
    condition: str = "joints"
    output: str = "pivots"

    def __post_init__(self) -> None:
        for name, known in (("condition", CONDITIONS), ("output", OUTPUTS)):
            if getattr(self, name) not in known:
                raise RopeTPError(
                    f"TrajDenoiser {name} {getattr(self, name)!r}: expected {' or '.join(known)}"
                )
        if self.layers < 2 or self.layers % 2:
            raise RopeTPError(f"TrajDenoiser of {self.layers} layers: the skips need an even count")
        if self.width % (2 * self.heads):
            raise RopeTPError(
                f"TrajDenoiser of width {self.width}: expected a multiple of {2 * self.heads}"
            )

    def pull(self, hold: Tensor) -> Tensor:
        """What :class:`Movement` calls hold, 0..1 -> the floor's weight in the height's least
        squares, beside a weight of 1 for every step."""
        loose, firm = (
            (seconds * self.fps) ** -2 for seconds in (self.loose_seconds, self.firm_seconds)
        )
        return loose + (firm - loose) * hold


@dataclass
class Condition:
    """What the joints say, worked out once for all diffusion steps.

    tokens [B, N, width]; pivots [B, N, 48, 3] m, how the root moves until the next frame if that
    joint stands still (24 joints, then the same smoothed); heights [B, N, 24] m, the pelvis's
    height if that joint is on the floor.
    """

    tokens: Tensor
    pivots: Tensor
    heights: Tensor

    def windows(self, frames: Tensor) -> "Condition":
        """Cut a single sequence into windows: frame indices [W, n] -> a batch of W."""
        return Condition(self.tokens[0, frames], self.pivots[0, frames], self.heights[0, frames])


@dataclass
class Movement:
    """The head's answer: displacement [B, N, 3] m from each frame to the next (the last one is
    not used), height [B, N] m of the pelvis above the floor, and hold [B, N] 0..1, how firmly to
    keep to that height."""

    displacement: Tensor
    height: Tensor
    hold: Tensor


def neighbours(joints: Tensor, offset: int) -> Tensor:
    """Joints [B, N, ...] ``offset`` frames later; beyond the ends, the end."""
    count = joints.shape[1]
    index = (torch.arange(count, device=joints.device) + offset).clamp(0, count - 1)
    return joints[:, index]


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Sines and cosines of the diffusion step, [B] -> [B, width]."""
    rates = torch.exp(
        -math.log(10000) * torch.arange(width // 2, device=timestep.device) / (width // 2)
    )
    angles = timestep.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


def rotary(count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [count, size / 2] of rotary position embeddings."""
    rates = 1000.0 ** (-torch.arange(size // 2, device=device) / (size // 2))
    angles = torch.arange(count, device=device)[:, None] * rates
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Layer(nn.Module):
    """A pre-norm transformer layer with rotary positions."""

    def __init__(self, width: int, heads: int, feedforward: int):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.up = nn.Linear(width, feedforward)
        self.down = nn.Linear(feedforward, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, count, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, count, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        attended = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, count, width))
        return x + self.down(F.gelu(self.up(self.norm_feedforward(x)), approximate="tanh"))


class TrajDenoiser(nn.Module):
    """The clean root path from a noisy one, guided by the joints."""

    #: Frame differences in the condition (later - earlier) and what brings them to about 1.
    DIFFERENCES = ((1, 0, 10.0), (0, -1, 10.0), (4, -4, 3.0))
    #: Smoothing of the second half of the pivots, frames -3 to 3.
    SMOOTHING = (1 / 64, 6 / 64, 15 / 64, 20 / 64, 15 / 64, 6 / 64, 1 / 64)

    def __init__(self, config: TrajConfig | None = None):
        super().__init__()
        self.config = config = config or TrajConfig()
        width, half = config.width, config.layers // 2
        numbers = 3 if config.condition == "joints" else 6
        features = NUM_JOINTS * numbers * (1 + len(self.DIFFERENCES))
        self.encode_condition = nn.Linear(features, width)
        self.encode_path = nn.Linear(3, width)
        self.merge = nn.Linear(2 * width, width)
        self.encode_step = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.layers = nn.ModuleList(
            Layer(width, config.heads, config.feedforward) for _ in range(config.layers)
        )
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(half))
        self.norm = nn.LayerNorm(width)
        for skip in self.skips:
            with torch.no_grad():
                skip.weight.mul_(0.1)
                skip.weight[:, :width].add_(torch.eye(width))
        if config.output == "xyz":
            self.place = nn.Linear(width, 3)
            return
        self.pivot = nn.Linear(width, 2 * NUM_JOINTS)
        self.floor = nn.Linear(width, NUM_JOINTS)
        self.rest = nn.Linear(width, 4)
        self.hold = nn.Linear(width, 1)
        self._start_from_foot_pinning()

    def _start_from_foot_pinning(self) -> None:
        """Before any training, the feet and ankles are what stands still."""
        feet = list(FEET + ANKLES)
        for layer in (self.pivot, self.floor, self.rest, self.hold):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.rest.weight)
        with torch.no_grad():
            self.pivot.bias[feet] = 4.0
            self.floor.bias[list(FEET)] = 4.0
            self.hold.bias.fill_(-2.7)

    def normalized(self, path: Tensor) -> Tensor:
        """Metres [..., 3] -> the units of the diffusion."""
        center = path.new_tensor([0.0, self.config.height_center, 0.0])
        return (path - center) / self.config.path_scale

    def condition(self, joints: Tensor, rot6d: Tensor | None = None) -> Condition:
        """Joints minus pelvis in world orientation, m, [B, N, 24, 3], at ``config.fps``, and, where
        the condition is made of them, their rotations to the parent [B, N, 24, 6]."""
        seen = joints if self.config.condition == "joints" else rot6d
        if seen is None:
            raise RopeTPError("these TrajDenoiser weights are guided by rotations: give them too")
        views = [seen]
        for later, earlier, scale in self.DIFFERENCES:
            difference = neighbours(seen, later) - neighbours(seen, earlier)
            views.append(difference * scale)
        tokens = self.encode_condition(torch.cat(views, -1).flatten(2))
        step = joints - neighbours(joints, 1)
        smooth = sum(
            weight * neighbours(step, offset - 3) for offset, weight in enumerate(self.SMOOTHING)
        )
        return Condition(tokens, torch.cat([step, smooth], 2), -joints[..., 1])

    def movement(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Movement:
        """Noisy path [B, N, 3] (diffusion units, first clean frame over the origin), diffusion
        step [B] -> how the clean path moves."""
        count = noisy.shape[1]
        both = torch.cat([self.encode_path(noisy), condition.tokens], -1)
        step = self.encode_step(timestep_embedding(timestep, self.config.width))
        x = self.merge(both) + step[:, None]
        cos, sin = rotary(count, self.config.width // self.config.heads, x.device)
        kept = []
        half = len(self.skips)
        for layer in self.layers[:half]:
            x = layer(x, cos, sin)
            kept.append(x)
        for layer, skip in zip(self.layers[half:], self.skips, strict=True):
            x = layer(skip(torch.cat([x, kept.pop()], -1)), cos, sin)
        x = self.norm(x)
        if self.config.output == "xyz":
            place = self.place(x).float() * self.config.path_scale
            step = F.pad(place.diff(dim=1), (0, 0, 0, 1))
            height = place[..., 1] + self.config.height_center
            return Movement(step, height, torch.ones_like(height))
        rest = self.rest(x).float() * 0.1
        weights = self.pivot(x).float().softmax(-1)
        displacement = (weights[..., None] * condition.pivots).sum(2) + rest[..., :3]
        on_floor = self.floor(x).float().softmax(-1)
        height = (on_floor * condition.heights).sum(-1) + rest[..., 3]
        return Movement(displacement, height, self.hold(x).float().sigmoid()[..., 0])

    def forward(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The clean path x0 [B, N, 3] m, its first frame over the origin."""
        return self.integrate(self.movement(noisy, timestep, condition))

    def integrate(self, movement: Movement) -> Tensor:
        """Sum movements into a path [B, N, 3] m. The height y minimises
        sum pull_i (y_i - height_i)^2 + sum (y_{i+1} - y_i - movement_i)^2."""
        path = F.pad(movement.displacement[:, :-1].cumsum(1), (0, 0, 1, 0))
        pull = self.config.pull(movement.hold)
        step = torch.diff(torch.eye(path.shape[1], device=path.device), dim=0)
        drifted = pull * (movement.height - path[..., 1])
        back = torch.linalg.solve(torch.diag_embed(pull) + step.T @ step, drifted)
        return torch.stack([path[..., 0], path[..., 1] + back, path[..., 2]], -1)


def save_denoiser(model: TrajDenoiser, path: str | Path) -> None:
    """Write weights (fp16) and the configuration that builds the network again."""
    metadata = {"format": FORMAT, "config": json.dumps(asdict(model.config))}
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, str(path), metadata)


def load_denoiser(path: str | Path) -> TrajDenoiser:
    """A TrajDenoiser in evaluation mode from a ``.safetensors`` file, on the CPU in fp32.

    Raises RopeTPError when the file is missing or is not a TrajDenoiser's.
    """
    path = Path(path)
    if not path.is_file():
        raise RopeTPError(f"{path}: no such weights; run `ropetp doctor`")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise KeyError(f"format {metadata.get('format')!r}, expected {FORMAT!r}")
            model = TrajDenoiser(TrajConfig(**json.loads(metadata["config"])))
            model.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RopeTPError(
            f"{path}: not a TrajDenoiser weight file ({first_line(error)})"
        ) from error
    return model.eval()
