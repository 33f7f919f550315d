"""How long each backbone takes for a crop: python scripts/backbone_speed.py [--device cuda]

Rope with its backbones, the two networks beside it, and ViT-H/16 at 256 x 192, the backbone of
HMR2.0, through timm, in the same run. Prints milliseconds a crop at batch 1 and 8.
"""

import argparse
import time

import timm
import torch

from ropetp_cli.body.model import load_body
from ropetp_cli.rope.movenet import load_movenet
from ropetp_cli.rope.network import Rope, RopeConfig, load_rope
from ropetp_cli.rope.pinpoint import load_pinpoint
from ropetp_cli.weights import find_weights


def milliseconds(model: torch.nn.Module, given: list[torch.Tensor], autocast: bool) -> float:
    """The median of several passes of what is ``given``, pictures first, a picture."""
    device = given[0].device.type
    times = []
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=autocast):
        began = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - began < 3:
            start = time.perf_counter()
            model(*given)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times[1:]) // 2] / len(given[0]) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    body = load_body()
    models = {
        "rope blazepose (default)": (load_rope(find_weights("rope"), body), (256, 256)),
        "MoveNet": (load_movenet(find_weights("keypoints")), (256, 256)),
        "Pinpoint": (load_pinpoint(find_weights("pinpoint")), (256, 256)),
        "rope hrnet_w32": (Rope(RopeConfig("hrnet_w32"), body), (256, 256)),
        "rope hrnet_w48": (Rope(RopeConfig("hrnet_w48"), body), (256, 256)),
        "ViT-H/16 256x192 (HMR2.0)": (
            timm.create_model("vit_huge_patch14_224", patch_size=16, img_size=(256, 192)),
            (256, 192),
        ),
    }
    print(f"{'model':28}" + "".join(f"{f'{t} batch {b}':>16}" for t in ("fp32", "bf16")
                                    for b in (1, 8)) + "   ms a crop")  # fmt: skip
    for name, (model, size) in models.items():
        model = model.eval().to(options.device, memory_format=torch.channels_last)
        told = torch.zeros(8, 17, 3, device=options.device) if name == "Pinpoint" else None
        cells = []
        for autocast in (False, True):
            for batch in (1, 8):
                pictures = torch.rand(batch, 3, *size, device=options.device)
                pictures = pictures.contiguous(memory_format=torch.channels_last)
                given = [pictures] if told is None else [pictures, told[:batch]]
                cells.append(milliseconds(model, given, autocast))
        print(f"{name:28}" + "".join(f"{cell:16.1f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
