"""ACPR, the Adaptive Contextual Part Regressor (paper section 3.2, Equations 2 and 3)."""

import math

import torch
from torch import Tensor, nn

from ropetp_cli.body.skeleton import LEVEL_SIZES, LEVELS, NUM_BETAS, NUM_JOINTS

PART_LEVELS = ("indep", "inter", "fulco")


class IntraLevelAttention(nn.Module):
    """ISL: two layers of self-attention among the parts of one level, 128 wide.

    Each part token comes with the whole-body token beside it, so that every part knows the
    whole; a learnt embedding tells the parts apart.
    """

    def __init__(self, parts: int, width_in: int, width: int = 128, heads: int = 4):
        super().__init__()
        self.expand = nn.Linear(width_in, width)
        self.part_embedding = nn.Parameter(torch.randn(parts, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=2 * width, dropout=0.1, activation="gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, parts, width_in] -> F'_x [B, parts, width]."""
        return self.layers(self.expand(tokens) + self.part_embedding)


class InterLevelAttention(nn.Module):
    """ICL: cross-attention among the levels with permuted queries, keys and values.

    Equation 2, with all levels expanded to the 24 joints::

        Attention_Indep = softmax(Q_FulCo K_Inter^T / sqrt(d_k)) V_Indep
        Attention_Inter = softmax(Q_Indep K_FulCo^T / sqrt(d_k)) V_Inter
        Attention_FulCo = softmax(Q_Inter K_Indep^T / sqrt(d_k)) V_FulCo

    Each level is projected to Q, K and V once. Every result is added to the tokens its values
    came from, the usual residual, on which the paper is silent.
    """

    #: level of the values -> (level of the queries, level of the keys)
    ROLES = {
        "indep": ("fulco", "inter"),
        "inter": ("indep", "fulco"),
        "fulco": ("inter", "indep"),
    }

    def __init__(self, width: int = 128, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.ModuleDict({level: nn.LayerNorm(width) for level in PART_LEVELS})
        self.to_qkv = nn.ModuleDict({level: nn.Linear(width, 3 * width) for level in PART_LEVELS})
        self.out = nn.ModuleDict({level: nn.Linear(width, width) for level in PART_LEVELS})

    def forward(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """{level: [B, 24, width]} -> the same, each level enriched by the other two."""
        batch, joints, width = tokens["indep"].shape
        d_k = width // self.heads
        q, k, v = {}, {}, {}
        for level in PART_LEVELS:
            qkv = self.to_qkv[level](self.norm[level](tokens[level]))
            split = qkv.reshape(batch, joints, 3, self.heads, d_k).permute(2, 0, 3, 1, 4)
            q[level], k[level], v[level] = split
        mixed = {}
        for level, (query, key) in self.ROLES.items():
            weights = (q[query] @ k[key].transpose(-1, -2) / math.sqrt(d_k)).softmax(dim=-1)
            attended = (weights @ v[level]).transpose(1, 2).reshape(batch, joints, width)
            mixed[level] = tokens[level] + self.out[level](attended)
        return mixed


class ContextualRegressor(nn.Module):
    """Tokens of the four levels -> SMPL rotations (rot6d), shape, camera and confidence.

    ``whole_body`` False leaves out the shared WhoBo token, ``cross`` False the ICL (both are
    rows of the paper's Table 4).
    """

    def __init__(
        self,
        token_width: int,
        context_width: int,
        width: int = 128,
        whole_body: bool = True,
        cross: bool = True,
    ):
        super().__init__()
        self.whole_body = whole_body
        shared = token_width + context_width if whole_body else 0
        self.intra = nn.ModuleDict(
            {
                level: IntraLevelAttention(LEVEL_SIZES[level], token_width + shared, width)
                for level in PART_LEVELS
            }
        )
        self.inter = InterLevelAttention(width) if cross else None
        for level in PART_LEVELS:
            self.register_buffer(
                f"expand_{level}", torch.as_tensor(LEVELS[level]), persistent=False
            )
        mix = width * len(PART_LEVELS)
        self.norm = nn.LayerNorm(mix)
        self.pose_hidden = nn.Sequential(nn.Linear(mix, 256), nn.GELU())
        # The last layer of the MLP has its own weights for each joint.
        self.pose_weight = nn.Parameter(torch.randn(NUM_JOINTS, 256, 7) * 0.01)
        self.pose_bias = nn.Parameter(torch.zeros(NUM_JOINTS, 7))
        with torch.no_grad():
            self.pose_bias[:, :6] = torch.tensor([1.0, 0, 0, 0, 1, 0])
            # A person before an OpenCV camera faces it: turned by pi about x.
            self.pose_bias[0, :6] = torch.tensor([1.0, 0, 0, 0, -1, 0])
        self.body_head = nn.Sequential(
            nn.LayerNorm(mix + shared),
            nn.Linear(mix + shared, 256),
            nn.GELU(),
            nn.Linear(256, NUM_BETAS + 3),
        )
        nn.init.normal_(self.body_head[-1].weight, std=0.01)
        nn.init.zeros_(self.body_head[-1].bias)

    def forward(self, tokens: dict[str, Tensor], context: Tensor) -> dict[str, Tensor]:
        """``tokens`` {level: [B, J_x, token_width]}, ``context`` [B, context_width] of the
        backbone.

        Returns rot6d [B, 24, 6], betas [B, 10], cam [B, 3] (scale > 0, tx, ty) and
        confidence_logit [B, 24].
        """
        whole = torch.cat([tokens["whobo"][:, 0], context], dim=-1) if self.whole_body else None
        expanded, pooled = {}, []
        for level in PART_LEVELS:
            part_tokens = tokens[level]
            if whole is not None:
                shared = whole[:, None].expand(-1, part_tokens.shape[1], -1)
                part_tokens = torch.cat([part_tokens, shared], dim=-1)
            intra = self.intra[level](part_tokens)
            pooled.append(intra.mean(dim=1))
            expanded[level] = intra[:, getattr(self, f"expand_{level}")]
        if self.inter is not None:
            expanded = self.inter(expanded)
        mix = torch.cat([expanded[level] for level in PART_LEVELS], dim=-1)  # Equation 3
        hidden = self.pose_hidden(self.norm(mix))
        pose = torch.einsum("bjc,jco->bjo", hidden, self.pose_weight) + self.pose_bias
        body = self.body_head(torch.cat(pooled + ([whole] if whole is not None else []), dim=-1))
        scale = 0.85 * torch.exp(body[:, NUM_BETAS : NUM_BETAS + 1].clamp(-2.5, 2.5))
        return {
            "rot6d": pose[..., :6],
            "confidence_logit": pose[..., 6],
            "betas": body[:, :NUM_BETAS],
            "cam": torch.cat([scale, body[:, NUM_BETAS + 1 :]], dim=-1),
        }
