"""The root path of a whole sequence by DDIM (paper section 3.3), whatever its length.

One noisy path runs through the sequence. At every step overlapping windows of it are denoised,
each seen from its own first frame; their movements, not their positions, are blended where they
overlap and summed once, so the windows agree wherever they meet. A sequence shorter than a window
goes on backwards from its end until it fills one, as short clips did in training: on fewer frames
than it was trained on the network walks too slowly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import solveh_banded
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ropetp_cli.body.rotations import matrix_to_rot6d
from ropetp_cli.errors import RopeTPError
from ropetp_cli.trajectory.denoiser import Condition, Movement, TrajDenoiser
from ropetp_cli.trajectory.diffusion import Diffusion, ddim_step
from ropetp_cli.trajectory.losses import foot_positions

WINDOWS_AT_ONCE = 32
#: The power of the head's hold on the floor. A floor held by mistake pulls a climber down and lets
#: one who sits with the feet in the air sink; one let go by mistake costs little, so doubt lets go.
LET_GO = 2
#: A foot counts as on the floor below this speed (m/s, and more by this share of the body's own:
#: behind a pose network, standing feet of walkers skate), and not much faster than the other foot,
#: while its toe joint is lower than CONTACT_HEIGHT (m; the second figure is how gently it fades).
CONTACT_SPEED, BODY_SHARE, OTHER_SHARE = 0.6, 0.7, 1.5
CONTACT_HEIGHT = (0.16, 0.025)
FOOT_SMOOTHING, BODY_SMOOTHING = 0.08, 0.3  # s
#: How gently the speeds fade, as a share of them; two feet slower than SLOW (m/s) are equally fast.
FADE, SLOW = 0.28, 0.3


@dataclass
class TrajectoryResult:
    """path [N, 3] m: the pelvis in the y-up world, floor at 0, first frame over the origin;
    contacts [N, 2] 0..1: left and right foot on the floor."""

    path: np.ndarray
    contacts: np.ndarray


def resample(values: np.ndarray, count: int) -> np.ndarray:
    """[N, ...] spread evenly over the same time -> [count, ...], linearly between frames."""
    if len(values) == count:
        return values
    time = np.linspace(0, len(values) - 1, count)
    before = np.minimum(time.astype(int), len(values) - 1)
    after = np.minimum(before + 1, len(values) - 1)
    part = (time - before).reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    return values[before] * (1 - part) + values[after] * part


def there_and_back(values: np.ndarray, count: int) -> np.ndarray:
    """[N, ...] -> [max(N, count), ...]: from the last frame back to the first, and so on."""
    last = len(values) - 1
    frames = np.arange(max(len(values), count))
    return values[last - np.abs(frames % max(2 * last, 1) - last) if last else frames * 0]


def foot_contacts(path: np.ndarray, joints: np.ndarray, fps: float) -> np.ndarray:
    """How likely each foot is on the floor, from speeds and its height in the world.

    ``path`` [N, 3] m, ``joints`` [N, 24, 3] m minus pelvis -> [N, 2] 0..1 (left, right).
    """
    feet = foot_positions(torch.as_tensor(path), torch.as_tensor(joints)).numpy()
    speed = _speed(feet, FOOT_SMOOTHING * fps) * fps
    limit = CONTACT_SPEED + BODY_SHARE * _speed(path, BODY_SMOOTHING * fps)[:, None] * fps
    other = OTHER_SHARE * np.maximum(speed[:, ::-1], SLOW)
    height, fade = CONTACT_HEIGHT
    chance = np.ones(speed.shape)
    for excess in (speed / limit - 1, speed / other - 1):
        chance = chance / (1 + np.exp(np.clip(excess / FADE, -50, 50)))
    return chance / (1 + np.exp(np.clip((feet[..., 1] - height) / fade, -50, 50)))


def _speed(places: np.ndarray, smoothing: float) -> np.ndarray:
    """Metres a frame [N, ...] of places [N, ..., 3] m, smoothed over so many frames."""
    if len(places) < 2:
        return np.zeros(places.shape[:-1])
    smooth = gaussian_filter1d(places, smoothing, axis=0, mode="nearest")
    return np.linalg.norm(np.gradient(smooth, axis=0), axis=-1)


def _integrate(movement: Movement, pull: Tensor) -> Tensor:
    """A whole sequence's movement [1, N] -> its path [N, 3] m, float64, as
    :meth:`TrajDenoiser.integrate` sums a window's, in time linear in N."""
    path = torch.zeros(movement.displacement.shape[1:], dtype=torch.float64)
    path[1:] = movement.displacement[0, :-1].double().cumsum(0)
    weight = pull[0].double().numpy()
    drifted = weight * (movement.height[0].double() - path[:, 1]).numpy()
    # The normal equations of the height: symmetric, tridiagonal.
    count = len(path)
    neighbours = np.full(count, 2.0)
    neighbours[0] -= 1
    neighbours[-1] -= 1
    bands = np.stack([np.full(count, -1.0), weight + neighbours])[-count:]
    path[:, 1] += torch.from_numpy(solveh_banded(bands, drifted))
    return path


class _Windows:
    """The overlapping windows of a sequence and how much each counts at every frame."""

    def __init__(self, count: int, window: int, device: torch.device):
        size = min(count, window)
        stride = max(size // 2, 1)
        starts = [*range(0, max(count - size, 0), stride), count - size]
        self.frames = torch.tensor(starts)[:, None] + torch.arange(size)
        ramp = torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1)).double()
        self.share = ramp.expand(len(starts), -1)
        self.total = torch.zeros(count, dtype=torch.double)
        self.total.index_add_(0, self.frames.flatten(), self.share.flatten())
        self.on_device = self.frames.to(device)

    def blend(self, values: Tensor) -> Tensor:
        """[W, size, ...] -> [N, ...], float64 on the CPU."""
        values = values.double().cpu()
        weight = self.share.reshape(*self.share.shape, *[1] * (values.ndim - 2))
        out = torch.zeros(len(self.total), *values.shape[2:], dtype=torch.double)
        out.index_add_(0, self.frames.flatten(), (values * weight).flatten(0, 1))
        return out / self.total.reshape(-1, *[1] * (values.ndim - 2))


def _movement(
    model: TrajDenoiser,
    noisy: Tensor,
    timestep: int,
    condition: Condition,
    windows: _Windows,
    origin: Tensor,
) -> Movement:
    """One pass over the windows. ``noisy`` [N, 3]; ``origin`` [N, 3]: what to take from a window
    that starts at a frame, so that its path starts over the origin."""
    parts = []
    device = condition.tokens.device
    for part in range(0, len(windows.frames), WINDOWS_AT_ONCE):
        frames = windows.frames[part : part + WINDOWS_AT_ONCE]
        seen = (noisy[frames] - origin[frames[:, :1]]).float().to(device)
        step = torch.full((len(frames),), timestep, device=device)
        chosen = condition.windows(windows.on_device[part : part + WINDOWS_AT_ONCE])
        parts.append(model.movement(seen, step, chosen))
    return Movement(
        *(
            windows.blend(torch.cat([getattr(part, name).cpu() for part in parts]))[None]
            for name in ("displacement", "height", "hold")
        )
    )


@torch.inference_mode()
def regenerate_path(
    model: TrajDenoiser,
    joints: np.ndarray,
    fps: float,
    steps: int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
    rotations: np.ndarray | None = None,
) -> TrajectoryResult:
    """Regenerate the root path of a sequence from its joints.

    ``joints`` [N, 24, 3] m, minus pelvis, in world orientation (y up), at ``fps``; ``steps`` of
    DDIM. The model runs at the rate it was trained at, the answer comes at yours. The same seed
    gives the same path on the same machine. Memory beyond the sequence's own arrays is that of
    32 windows. ``rotations`` [N, 24, 3, 3], to the parent, are needed by weights that are guided by
    them. Raises RopeTPError for joints of another shape, for an impossible rate, and where such
    weights get no rotations.
    """
    joints = np.asarray(joints, dtype=np.float32)
    if joints.ndim != 3 or joints.shape[1:] != (24, 3) or not len(joints):
        raise RopeTPError(f"joints have shape {list(joints.shape)}, expected N x 24 x 3")
    if not (np.isfinite(fps) and fps > 0):
        raise RopeTPError(f"the frame rate is {fps}, expected more than 0")
    config = model.config
    model = model.to(device).eval()
    count = max(round((len(joints) - 1) * config.fps / fps) + 1, min(len(joints), 2))

    def at_rate(values: np.ndarray) -> Tensor:
        even = there_and_back(resample(values, count), config.window)
        return torch.from_numpy(even).to(device)[None]

    turns = None
    if config.condition == "rot6d" and rotations is not None:
        turns = at_rate(matrix_to_rot6d(rotations).astype(np.float32))
    condition = model.condition(at_rate(joints), turns)
    needed, count = count, condition.tokens.shape[1]
    windows = _Windows(count, config.window, torch.device(device))
    diffusion = Diffusion(config.diffusion_steps, config.schedule)
    alphas = diffusion.alphas.tolist()
    timesteps = diffusion.timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    path = torch.zeros(count, 3, dtype=torch.float64)
    ground = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    for index, timestep in enumerate(timesteps):
        alpha = alphas[timestep]
        origin = path * ground / config.path_scale * alpha**0.5
        movement = _movement(model, noisy, timestep, condition, windows, origin)
        path = _integrate(movement, config.pull(movement.hold**LET_GO))
        following = alphas[timesteps[index + 1]] if index + 1 < len(timesteps) else 1.0
        noisy = ddim_step(noisy, model.normalized(path), alpha, following)
    full = resample(path[:needed].numpy(), len(joints))
    return TrajectoryResult(full, foot_contacts(full, joints.astype(np.float64), fps))
