"""ACPR, the Adaptive Contextual Part Regressor (paper section 3.2, Equations 2 and 3)."""

import math

import torch
from torch import Tensor, nn

from ropetp_cli.body.skeleton import LEVEL_SIZES, LEVELS, NUM_BETAS, NUM_JOINTS

PART_LEVELS = ("indep", "inter", "fulco")


#: Beside rot6d a joint's answer has its confidence, a 2D offset and the 2D spread's logarithm.
_ANSWER = 6 + 1 + 2 + 1


class KeypointEncoder(nn.Module):
    """COCO keypoints as context for every part (beyond the paper).

    A keypoint that is not seen is zeros. In training, keypoints go missing at random, so that
    Rope also works alone.
    """

    def __init__(self, width: int = 128, keypoints: int = 17):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Linear(3 * keypoints, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, keypoints: Tensor) -> Tensor:
        """[B, 17, 3] (x, y in -1..1 of the crop, confidence 0..1) -> [B, width]."""
        place, confidence = keypoints[..., :2], keypoints[..., 2:]
        shown = torch.cat([place * (4 * confidence).clamp(max=1), confidence], dim=-1)
        return self.layers(shown.flatten(1))


class IntraLevelAttention(nn.Module):
    """ISL: two layers of self-attention among the parts of one level, 128 wide.

    Each part token comes with the whole-body token beside it, so that every part knows the
    whole; a learnt embedding tells the parts apart. ``attention`` False puts an MLP of the same
    width in its place, each part on its own (rows of the paper's Table 4).
    """

    def __init__(
        self, parts: int, width_in: int, width: int = 128, heads: int = 4, attention: bool = True
    ):
        super().__init__()
        self.expand = nn.Linear(width_in, width)
        self.part_embedding = nn.Parameter(torch.randn(parts, width) * 0.02)
        if not attention:
            self.layers = nn.Sequential(
                nn.GELU(), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            )
            return
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
    """Tokens of the four levels -> SMPL rotations (rot6d), shape, camera and 2D evidence.

    For the rows of the paper's Table 4, ``levels`` may name fewer part levels, ``attention``
    False puts an MLP in place of the ISL, ``cross`` False leaves out the ICL and ``whole_body``
    False the shared WhoBo token.
    """

    def __init__(
        self,
        token_width: int,
        context_width: int,
        width: int = 128,
        levels: tuple[str, ...] = PART_LEVELS,
        attention: bool = True,
        whole_body: bool = True,
        cross: bool = True,
    ):
        super().__init__()
        self.levels = levels
        self.whole_body = whole_body
        shared = context_width + (token_width if whole_body else 0)
        self.intra = nn.ModuleDict(
            {
                level: IntraLevelAttention(
                    LEVEL_SIZES[level], token_width + shared, width, attention=attention
                )
                for level in levels
            }
        )
        self.inter = InterLevelAttention(width) if cross else None
        for level in levels:
            self.register_buffer(
                f"expand_{level}", torch.as_tensor(LEVELS[level]), persistent=False
            )
        mix = width * len(levels)
        self.norm = nn.LayerNorm(mix)
        self.pose_hidden = nn.Sequential(nn.Linear(mix, 256), nn.GELU())
        # The last layer of the MLP has its own weights for each joint.
        self.pose_weight = nn.Parameter(torch.randn(NUM_JOINTS, 256, _ANSWER) * 0.01)
        self.pose_bias = nn.Parameter(torch.zeros(NUM_JOINTS, _ANSWER))
        with torch.no_grad():
            self.pose_bias[:, :6] = torch.tensor([1.0, 0, 0, 0, 1, 0])
            # A person before an OpenCV camera faces it: turned by pi about x.
            self.pose_bias[0, :6] = torch.tensor([1.0, 0, 0, 0, -1, 0])
            self.pose_bias[:, 9] = -2.0
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
        backbone and the keypoints.

        Returns rot6d [B, 24, 6], betas [B, 10], cam [B, 3] (scale > 0, tx, ty),
        confidence_logit [B, 24], and for every joint where the evidence puts it in 2D beside
        where the body's image lies: offset [B, 24, 2] and log_spread [B, 24].
        """
        shared = context
        if self.whole_body:
            shared = torch.cat([tokens["whobo"][:, 0], context], dim=-1)
        expanded, pooled = {}, []
        for level in self.levels:
            beside = shared[:, None].expand(-1, tokens[level].shape[1], -1)
            intra = self.intra[level](torch.cat([tokens[level], beside], dim=-1))
            pooled.append(intra.mean(dim=1))
            expanded[level] = intra[:, getattr(self, f"expand_{level}")]
        if self.inter is not None:
            expanded = self.inter(expanded)
        mix = torch.cat([expanded[level] for level in self.levels], dim=-1)  # Equation 3
        hidden = self.pose_hidden(self.norm(mix))
        pose = torch.einsum("bjc,jco->bjo", hidden, self.pose_weight) + self.pose_bias
        body = self.body_head(torch.cat([*pooled, shared], dim=-1))
        scale = 0.85 * torch.exp(body[:, NUM_BETAS : NUM_BETAS + 1].clamp(-2.5, 2.5))
        return {
            "rot6d": pose[..., :6],
            "confidence_logit": pose[..., 6],
            "offset": pose[..., 7:9],
            "log_spread": pose[..., 9].clamp(-5.0, 1.0),
            "betas": body[:, :NUM_BETAS],
            "cam": torch.cat([scale, body[:, NUM_BETAS + 1 :]], dim=-1),
        }
