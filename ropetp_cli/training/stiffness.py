"""How far off answers are, joint by joint and joints together, for bending them:
``python -m ropetp_cli.training.stiffness rope DATA WEIGHTS --set NAME --out FILE`` for Rope's,
``... stiffness temporal SIGHTINGS.. WEIGHTS --out FILE`` for those of Rope over time.

Errors hang together: a thigh that is off leaves the shin as it is more often than it takes it
along, and depth is wrong more often than what lies in the picture. The inverse of their covariance,
over pictures the network was not trained on, says how stiffly each turn of a joint, and each two of
them together, resist (:func:`ropetp_cli.rope.alignment.bend`); it is kept with the weights.
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
from ropetp_cli.rope.temporal import TemporalRefiner, load_temporal, save_temporal
from ropetp_cli.rope.upright import upright_views
from ropetp_cli.training.crops import CropSet
from ropetp_cli.training.sightings import Sightings
from ropetp_cli.weights import find_weights

#: Degrees of freedom of Student's distribution of the errors, for some answers are wholly wrong.
TAILS = 4.0
#: People seen turned by more than this, rad, tell nothing of their limbs.
TURNED = 1.2
#: So much of the covariance between joints is put down to there being so few crops.
BY_CHANCE = 0.1
#: Sightings are of so many frames a second; one in so many of them counts.
FPS, EVERY = 30.0, 2


def turns_off(answers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How every joint must turn, after those above it, for ``answers`` to become ``truth`` [N, 24,
    3, 3], as rotation vectors [N, 24, 3] rad in crop axes."""
    theirs, ours = local_to_global(truth), local_to_global(answers)
    whole = matrix_to_axis_angle(theirs @ ours.transpose(0, 1, 3, 2))
    turns = whole.copy()
    turns[:, 1:] -= whole[:, list(PARENTS[1:])]
    return turns


def turns_in_views(poses: CropPoses, truth: np.ndarray) -> np.ndarray:
    """The same in the axes of the upright views in which ``poses`` were seen."""
    turns = turns_off(poses.rotations, truth)
    return turns @ upright_views(poses.keypoints).turn.transpose(0, 2, 1)


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


weights_to_write = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
    help="Weights to write (.safetensors).",
)  # fmt: skip
a_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Measure how far off answers are, and keep that with the weights that give them."""


@main.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("weights", type=a_file)
@click.option("--set", "name", required=True, help="Rendered crops of DATA Rope has not seen.")
@click.option("--count", type=click.IntRange(1), default=1500, show_default=True)
@weights_to_write
def rope(data: Path, weights: Path, name: str, count: int, out: Path) -> None:
    """Rope's, of rendered crops."""
    body = load_body()
    network, marks = load_rope(weights, body), load_movenet(find_weights("keypoints"))
    predictor = RopePredictor(network, aligned=False, marks=marks)
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
    turns = turns_in_views(CropPoses.joined(answers), crops.labels["rotations"][chosen])
    network.stiffness.copy_(torch.as_tensor(stiffness_of(turns)))
    save_rope(network, out)


@main.command()
@click.argument("sightings", nargs=-1, required=True, type=a_file)
@click.argument("weights", type=a_file)
@weights_to_write
def temporal(sightings: tuple[Path, ...], weights: Path, out: Path) -> None:
    """That of Rope over time, of SIGHTINGS it was not trained on."""
    model, body = load_temporal(weights), load_body()
    seen = Sightings.joined([Sightings.load(path) for path in sightings])
    refiner, turns = TemporalRefiner(model), []
    for window in range(len(seen)):
        rest = seen.rest_joints(window, body)[0]
        found = seen.refined(window, refiner, rest, FPS, bent=False)
        turns.append(turns_off(found.rotations, seen.truth_in_crops(window))[::EVERY])
    model.stiffness.copy_(torch.as_tensor(stiffness_of(np.concatenate(turns))))
    save_temporal(model, out)


if __name__ == "__main__":
    main()
