"""Focal length in pixels: from the user, or assumed and said so."""

import math

from ropetp_cli.errors import RopeTPError

FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)


def choose_focal(
    size: tuple[int, int], focal_px: float | None = None, focal_mm: float | None = None
) -> tuple[float, str]:
    """Focal length px and where it comes from.

    ``size`` (width, height) px; ``focal_mm`` is the 35 mm equivalent, matched on the diagonal.
    With neither, the diagonal of the image is taken (a 53 degree diagonal view, 43 mm
    equivalent), the field's habit since CLIFF.
    """
    diagonal = math.hypot(*size)
    for name, value in (("--focal-px", focal_px), ("--focal-mm", focal_mm)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise RopeTPError(f"{name} is {value}, expected a number above 0")
    if focal_px is not None:
        return focal_px, "given in px"
    if focal_mm is not None:
        return focal_mm / FULL_FRAME_DIAGONAL_MM * diagonal, "given in mm (35 mm equivalent)"
    return diagonal, "assumed (image diagonal)"
