"""A captured motion against the true one of the same video."""

from pathlib import Path

import numpy as np

from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation import metrics
from ropetp_cli.exchange import read
from ropetp_cli.motion import Motion


def compare(captured: Motion, truth: Motion) -> dict[str, float]:
    """The metrics of DESIGN's figures over the frames both have, and the length of the way.

    Frames are matched by time, to the nearest of the truth. W-MPJPE, WA-MPJPE, MPJPE and
    PA-MPJPE in mm, RTE in % of the path, accel in m/s^2.
    """
    nearest = np.rint((captured.timestamps - truth.timestamps[0]) * truth.fps).astype(int)
    shared = (nearest >= 0) & (nearest < len(truth))
    if shared.sum() < 3:
        raise RopeTPError("the motion and its truth share fewer than three frames")
    ours, theirs = captured.joints[shared], truth.joints[nearest[shared]]

    def length(joints: np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(joints[::10, 0], axis=0), axis=1).sum())

    figures = {
        "frames": float(shared.sum()),
        "mpjpe_mm": metrics.mpjpe(ours, theirs).mean(),
        "pa_mpjpe_mm": metrics.pa_mpjpe(ours, theirs).mean(),
        "w_mpjpe_mm": metrics.w_mpjpe(ours, theirs).mean(),
        "wa_mpjpe_mm": metrics.wa_mpjpe(ours, theirs).mean(),
        "rte_percent": np.nanmean(metrics.rte(ours[:, 0], theirs[:, 0])),
        "accel_m_per_s2": metrics.accel(ours, theirs, captured.fps).mean(),
        "path_length_ratio": length(ours) / max(length(theirs), 1e-6),
    }
    return {name: round(float(value), 3) for name, value in figures.items()}


def compare_run(run: Path, truth: Path) -> dict[str, float]:
    """The first person of a capture's directory (or one motion file) against ``truth``."""
    path = run / "person_01.npz" if run.is_dir() else run
    return compare(read(path), read(truth))
