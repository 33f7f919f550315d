"""How far off Rope's answers are, joint by joint and joints together, for bending them:
``python -m ropetp_cli.training.stiffness DATA WEIGHTS --set NAME --out FILE``.

Rope's errors hang together: a thigh that is off leaves the shin as it is more often than it takes
it along, and depth is wrong more often than what lies in the picture. The inverse of their
covariance, over crops Rope was not trained on, says how stiffly each turn of a joint, and each two
of them together, resist (:func:`ropetp_cli.rope.alignment.align`); it is kept with Rope's weights.
"""

from pathlib import Path

import click
import numpy as np
import torch

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import local_to_global, matrix_to_axis_angle
from ropetp_cli.body.skeleton import NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation.pose import batches
from ropetp_cli.rope.movenet import load_movenet
from ropetp_cli.rope.network import load_rope, save_rope
from ropetp_cli.rope.predictor import CropPoses, RopePredictor
from ropetp_cli.rope.upright import upright_views
from ropetp_cli.training.crops import CropSet
from ropetp_cli.weights import find_weights

#: Degrees of freedom of Student's distribution of the errors, for some answers are wholly wrong.
TAILS = 4.0
#: People seen turned by more than this, rad, tell nothing of their limbs.
TURNED = 1.2
#: So much of the covariance between joints is put down to there being so few crops.
BY_CHANCE = 0.1


def turns_off(poses: CropPoses, truth: np.ndarray) -> np.ndarray:
    """How every joint must turn, after those above it, for answers to become ``truth`` [N, 24, 3,
    3], as rotation vectors [N, 24, 3] rad in the axes of the upright views."""
    theirs, ours = local_to_global(truth), local_to_global(poses.rotations)
    whole = matrix_to_axis_angle(theirs @ ours.transpose(0, 1, 3, 2))
    whole = whole @ upright_views(poses.keypoints).turn.transpose(0, 2, 1)
    turns = whole.copy()
    turns[:, 1:] -= whole[:, list(PARENTS[1:])]
    return turns


def covariance(samples: np.ndarray, rounds: int = 20) -> np.ndarray:
    """Of samples [N, D] about zero that Student's distribution has, [D, D]."""
    count, width = samples.shape
    found = samples.T @ samples / count
    for _ in range(rounds):
        far = np.einsum("ni,ni->n", samples, np.linalg.solve(found, samples.T).T)
        weighted = samples * ((TAILS + width) / (TAILS + far))[:, None]
        found = weighted.T @ samples / count
    return (1 - BY_CHANCE) * found + BY_CHANCE * np.diag(np.diag(found))


def stiffness_of(turns: np.ndarray) -> np.ndarray:
    """[72, 72], 1 / rad^2, from how far off answers were, [N, 24, 3]."""
    about = turns[np.linalg.norm(turns[:, 0], axis=1) < TURNED].reshape(-1, 3 * NUM_JOINTS)
    if len(about) < 6 * NUM_JOINTS:
        raise RopeTPError(f"{len(about)} crops tell too little of 24 turns; give more")
    return np.linalg.inv(covariance(about))


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--set", "name", required=True, help="Rendered crops of DATA Rope has not seen.")
@click.option("--count", type=click.IntRange(1), default=1500, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Weights to write (.safetensors).")  # fmt: skip
def main(data: Path, weights: Path, name: str, count: int, out: Path) -> None:
    """Measure how far off the answers of WEIGHTS are, and keep that with them."""
    body = load_body()
    rope, marks = load_rope(weights, body), load_movenet(find_weights("keypoints"))
    predictor = RopePredictor(rope, aligned=False, marks=marks)
    crops = CropSet.load(data, name)
    if not crops.rendered or not crops.keypoints.any():
        raise RopeTPError(
            f"{data}: {name} is not rendered or lacks the detector's keypoints; give rendered "
            "crops, after `python -m ropetp_cli.training.detections`"
        )
    chosen = np.unique(np.linspace(0, len(crops) - 1, count).astype(int))
    answers = [
        predictor.predict(np.array(crops.images[chosen[rows]]), crops.keypoints[chosen[rows]])
        for rows in batches(len(chosen))
    ]
    turns = turns_off(CropPoses.joined(answers), crops.labels["rotations"][chosen])
    rope.stiffness.copy_(torch.as_tensor(stiffness_of(turns)))
    save_rope(rope, out)


if __name__ == "__main__":
    main()
