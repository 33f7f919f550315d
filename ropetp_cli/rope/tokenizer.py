"""HAGT, the Hierarchical Attention Guided Tokenizer (paper section 3.2, Equation 1)."""

import torch
from torch import Tensor, nn

from ropetp_cli.body.skeleton import LEVEL_SIZES


def _conv_block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _places(features: Tensor) -> Tensor:
    """Where each place of the map lies in the picture, -1..1, [B, 2, H, W]."""
    size = features.shape[-1]
    middle = (torch.arange(size, device=features.device) + 0.5) * (2 / size) - 1
    grid = torch.stack(torch.meshgrid(middle, middle, indexing="xy"))
    return grid.expand(len(features), -1, -1, -1)


class HierarchicalTokenizer(nn.Module):
    """Turns a feature map into one token per body part at each of the four levels.

    Every level has its own attention maps ``Att_x`` [B, J_x + 1, H, W] (the last channel is
    the background) and its own values ``V_x`` [B, C, H, W]. The maps serve twice:

    * as a soft mask over the picture, ``T_x = sigma(Att_x)^T V_x`` (Equation 1), where sigma
      is a softmax over the H x W places of one part, so that a token is a mean of features;
    * as part segmentation, supervised in the first phase (L_Att of Equation 9), where the
      softmax runs over the parts of one place.

    Beyond the paper, a token ends in its mask's mean place (x, y in -1..1), which a mean of
    features does not hold: limbs land nearer to where they are seen.

    ``levels`` names the levels to build; the ablations of the paper's Table 4 leave some out.
    """

    def __init__(
        self, channels: int, token_width: int = 128, levels: tuple[str, ...] = tuple(LEVEL_SIZES)
    ):
        super().__init__()
        self.levels = levels
        self.attention_stem = _conv_block(channels, token_width)
        self.value_stem = _conv_block(channels, token_width)
        self.attention = nn.ModuleDict(
            {level: nn.Conv2d(token_width, LEVEL_SIZES[level] + 1, 1) for level in levels}
        )
        self.values = nn.ModuleDict(
            {level: nn.Conv2d(token_width, token_width, 1) for level in levels}
        )

    def forward(self, features: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """``features`` [B, C, H, W] -> tokens {level: [B, J_x, token_width + 2]} and attention
        logits {level: [B, J_x + 1, H, W]}."""
        attention_features = self.attention_stem(features)
        value_features = self.value_stem(features)
        places = _places(features).flatten(2)
        tokens, logits = {}, {}
        for level in self.levels:
            logits[level] = self.attention[level](attention_features)
            soft_mask = logits[level][:, :-1].flatten(2).float().softmax(dim=-1)  # sigma(Att_x)
            values = self.values[level](value_features).flatten(2)  # V_x
            values = torch.cat([values.float(), places], dim=1)
            tokens[level] = torch.einsum("bjp,bcp->bjc", soft_mask, values)
        return tokens, logits
