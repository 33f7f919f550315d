"""Focal length in pixels: from the user, read off the picture, or assumed and said so."""

import math
from collections.abc import Sequence

import numpy as np

from ropetp_cli.errors import RopeTPError

FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
#: By how much, as a logarithm, one that is given, read off straight edges, or assumed may be off.
GIVEN, READ, ASSUMED = 0.03, 0.08, 0.25


def choose_focal(
    size: tuple[int, int],
    focal_px: float | None = None,
    focal_mm: float | None = None,
    read: Sequence[float] = (),
) -> tuple[float, float, str]:
    """Focal length px, by how much its logarithm may be off, and where it comes from.

    ``size`` (width, height) px; ``focal_mm`` is the 35 mm equivalent, matched on the diagonal;
    ``read`` px are those that the straight edges of some pictures tell. With none, the diagonal of
    the image is taken (a 53 degree diagonal view, 43 mm equivalent), the field's habit since CLIFF.
    """
    diagonal = math.hypot(*size)
    for name, value in (("--focal-px", focal_px), ("--focal-mm", focal_mm)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise RopeTPError(f"{name} is {value}, expected a number above 0")
    if focal_px is not None:
        return focal_px, GIVEN, "given in px"
    if focal_mm is not None:
        return focal_mm / FULL_FRAME_DIAGONAL_MM * diagonal, GIVEN, "given in mm (35 mm equivalent)"
    if read:
        return float(np.median(read)), READ, "read off straight edges"
    return diagonal, ASSUMED, "assumed (image diagonal)"
