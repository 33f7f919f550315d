"""The diffusion of the root path (paper section 3.3, Equations 4 to 8).

``alphas`` is the paper's alpha_t: the running product of (1 - beta). The network predicts the
clean path, so Equation 7 is used backwards, to find the noise that goes with a predicted path.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ropetp_cli.errors import RopeTPError


@dataclass(frozen=True)
class Diffusion:
    """A variance schedule: ``kind`` is ``cosine`` (Nichol and Dhariwal's) or ``linear`` (DDPM's).

    The paper names neither; cosine keeps the path readable for more of the steps.
    """

    steps: int = 1000
    kind: str = "cosine"

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "linear"):
            raise RopeTPError(f"diffusion schedule {self.kind!r}: expected cosine or linear")
        if self.steps < 2:
            raise RopeTPError(f"a diffusion of {self.steps} steps: expected at least 2")

    @property
    def betas(self) -> Tensor:
        """beta_t, float64 [steps]."""
        if self.kind == "linear":
            scale = 1000 / self.steps
            return torch.linspace(1e-4 * scale, 0.02 * scale, self.steps, dtype=torch.float64)
        time = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        level = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - level[1:] / level[:-1]).clamp(max=0.999)

    @property
    def alphas(self) -> Tensor:
        """alpha_t of Equation 5, float64 [steps]."""
        return torch.cumprod(1 - self.betas, 0)

    def timesteps(self, count: int) -> list[int]:
        """``count`` steps spread over the schedule, from the noisiest down to 0."""
        if not 1 <= count <= self.steps:
            raise RopeTPError(f"{count} DDIM steps: expected 1 to {self.steps}")
        if count == 1:
            return [self.steps - 1]
        return [round(step) for step in torch.linspace(self.steps - 1, 0, count).tolist()]


def q_sample(x0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """The noisy path r_t of Equations 4 and 5 in closed form.

    ``x0`` and ``noise`` [B, N, 3], ``alpha`` [B] -> [B, N, 3].
    """
    alpha = alpha.to(x0)[:, None, None]
    return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise


def ddim_step(noisy: Tensor, x0: Tensor, alpha: float, alpha_next: float) -> Tensor:
    """Equation 8 with sigma = 0: r_t -> r_{t-1}, the noise by Equation 7 from the predicted path.

    ``alpha`` belongs to ``noisy``, ``alpha_next`` to the result; 1 for the clean path itself.
    """
    noise = (noisy - math.sqrt(alpha) * x0) / math.sqrt(max(1 - alpha, 1e-12))
    return math.sqrt(alpha_next) * x0 + math.sqrt(1 - alpha_next) * noise
