"""RopeTP: global human motion from one ordinary video.

The Python API: :func:`capture` and its :class:`CaptureOptions`, :class:`Motion` and
:func:`load_motion`. They are imported on first use, so that ``import ropetp_cli`` costs nothing.
"""

import os

# Threads that wait for each other are to let go of their core soon. GNU OpenMP, which reads this
# when torch is loaded, has them spin for milliseconds, and beside another busy program takes the
# very cores they wait for.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.6.0"
__all__ = ["CaptureOptions", "Motion", "__version__", "capture", "load_motion"]


def __getattr__(name: str):
    if name in ("capture", "CaptureOptions"):
        from ropetp_cli import pipeline

        return getattr(pipeline, name)
    if name == "Motion":
        from ropetp_cli.motion import Motion

        return Motion
    if name == "load_motion":
        from ropetp_cli.exchange.npz import load_motion

        return load_motion
    raise AttributeError(f"module 'ropetp_cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
