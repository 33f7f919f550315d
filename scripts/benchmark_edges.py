"""How right straight edges are about the camera, in pictures cut out of panoramas.

usage: python scripts/benchmark_edges.py [--views 60] [--focal]

The panoramas (Poly Haven's, CC0, 1,024 px around, so views are small and blurred) are those of the
package viser, downloaded and checked by sha256; their horizon is level. Views look anywhere, tilted
by 12 degrees (root mean square), a third of them also rolled, through lenses of all lengths. With
--focal they are told theirs.
"""

import argparse
import hashlib

import cv2
import numpy as np
from demo_clip import download
from rich.console import Console
from rich.table import Table

from ropetp_cli.body.rotations import axis_angle_to_matrix, yaw_matrix
from ropetp_cli.camera.gravity import LEVEL
from ropetp_cli.camera.lines import FOCAL, read_perspective, straight_edges

PACKAGE = "viser==1.1.1"
SHA256 = "fe42c316a850612382dd05c9e6b1e6b24af98184159a12ddc5ed8dbffa274a20"
BUILT = ("empty_warehouse_01", "lebombo", "potsdamer_platz", "st_fagans_interior",
         "studio_small_03", "venice_sunset")  # fmt: skip
WILD = ("forest_slope", "kiara_1_dawn", "rooitou_park")
#: Views have no more pixels than the panorama has there, times this.
SHARPEST = 1.3


def panoramas() -> dict[str, np.ndarray]:
    with download(PACKAGE) as package:
        files = {n: package.read(f"viser/_assets/hdri/{n}_1k.jpg") for n in (*BUILT, *WILD)}
    if hashlib.sha256(b"".join(files.values())).hexdigest() != SHA256:
        raise SystemExit(f"{PACKAGE}: not the panoramas expected (sha256 differs)")
    return {n: cv2.imdecode(np.frombuffer(data, np.uint8), 1) for n, data in files.items()}


def view(panorama: np.ndarray, world: np.ndarray, focal: float, size: np.ndarray) -> np.ndarray:
    """What a camera turned by ``world`` [3, 3] (world from camera) sees of a panorama."""
    u, v = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in size))
    rays = np.stack([u, v, np.full(u.shape, focal)], axis=-1) @ world.T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    height, width = panorama.shape[:2]
    across = (np.arctan2(rays[..., 0], -rays[..., 2]) / (2 * np.pi) + 0.5) * width - 0.5
    down = (0.5 - np.arcsin(rays[..., 1]) / np.pi) * height - 0.5
    return cv2.remap(panorama, across.astype(np.float32), down.astype(np.float32),
                     cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--focal", action="store_true")
    given = parser.parse_args()
    random, kept = np.random.default_rng(0), panoramas()
    table = Table("places", "views", "read", "up off by °, 50, 75, 90 %", "a level camera's",
                  "lens read", "off by %, 50, 75, 90 %", "the diagonal's")  # fmt: skip
    for kind, places in (("built", BUILT), ("wild", WILD)):
        up, level, lens, diagonal = [], [], [], []
        for place in places:
            per_radian = kept[place].shape[1] / (2 * np.pi)
            for _ in range(given.views):
                pitch = np.clip(random.normal(5, 12), -35, 50)
                roll = np.clip(random.normal(0, 15 if random.random() < 0.3 else 3), -35, 35)
                world = yaw_matrix(random.uniform(0, 2 * np.pi)) @ (
                    axis_angle_to_matrix(np.radians([-pitch, 0, 0]))
                    @ LEVEL
                    @ axis_angle_to_matrix(np.radians([0, 0, roll]))
                )
                length = FOCAL * np.exp(np.clip(random.normal(0, 0.3), -0.6, 0.75))
                focal = min(length * np.hypot(16, 9) * 80, SHARPEST * per_radian)
                size = np.round(focal / length * np.array([16, 9]) / np.hypot(16, 9)).astype(int)
                size = size[:: random.choice([1, -1])]
                picture = view(kept[place], world, focal, size)
                edges = straight_edges(picture, np.zeros((0, 4)))
                size = (int(size[0]), int(size[1]))
                read = read_perspective(edges, size, focal if given.focal else None)
                if read is not None:
                    up.append(np.degrees(np.arccos(np.clip(read.up @ world[1], -1, 1))))
                    level.append(np.degrees(np.arccos(np.clip(-world[1, 1], -1, 1))))
                if read is not None and read.focal is not None:
                    lens.append(100 * abs(np.log(read.focal / focal)))
                    diagonal.append(100 * abs(np.log(np.hypot(*size) / focal)))
        count = given.views * len(places)
        table.add_row(kind, str(count), f"{len(up) / count:.0%}", _spread(up), _spread(level),
                      f"{len(lens) / count:.0%}", _spread(lens), _spread(diagonal))  # fmt: skip
    Console(width=140).print(table)


def _spread(values: list[float]) -> str:
    return " ".join(f"{v:.1f}" for v in np.percentile(values, [50, 75, 90])) if values else "-"


if __name__ == "__main__":
    main()
