"""Pictures of a capture. Nothing here is imported by inference itself."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from ropetp_cli.errors import RopeTPError

if TYPE_CHECKING:
    from ropetp_cli.body.model import BodyData
    from ropetp_cli.motion import Motion

#: Preview -> the file it is written to.
FILES = {
    "overlay": "overlay.mp4",
    "world": "world.mp4",
    "world-fixed": "world_fixed.mp4",
    "side-by-side": "side_by_side.mp4",
    "paths": "paths.png",
    "sheet": "overlay.png",
    "viewer": "viewer.html",
}
POLL = 0.2  # s between two looks at how far a drawing beside is


def check_previews(names: Iterable[str]) -> tuple[str, ...]:
    """The previews to draw, without ``none``, the viewer last: it refers to the overlay.

    RopeTPError for one nobody draws.
    """
    chosen = tuple(name for name in dict.fromkeys(names) if name != "none")
    for name in chosen:
        if name not in FILES:
            known = ", ".join(FILES)
            raise RopeTPError(f"the {name} preview is not available in this version; use {known}")
    return tuple(sorted(chosen, key=lambda name: name == "viewer"))


def render_previews(
    video: str | Path,
    motions: "list[Motion]",
    body: "BodyData",
    out: str | Path,
    previews: Iterable[str],
    progress: Callable[[int], None] | None = None,
    start: float | None = None,
    end: float | None = None,
    with_mesh: bool | None = None,
) -> list[Path]:
    """Draw ``previews`` of ``motions`` into the directory ``out`` and return the files.

    ``start`` and ``end`` (s) are the part of ``video`` that was captured; ``progress(1)`` is
    called for every frame drawn; ``with_mesh`` is the viewer's. Raises
    RopeTPError for an unreadable video or unwritable file.
    """
    names = check_previews(previews)
    if not names:
        return []
    from ropetp_cli.preview.overlay import contact_sheet, render_overlay, render_side_by_side
    from ropetp_cli.preview.paths import path_plot
    from ropetp_cli.preview.viewer import write_viewer
    from ropetp_cli.preview.world import render_world

    out = Path(out)
    span = {"progress": progress, "start": start, "end": end}
    draw = {
        "overlay": lambda path: render_overlay(video, motions, body, path, **span),
        "world": lambda path: render_world(motions, body, path, progress),
        "world-fixed": lambda path: render_world(motions, body, path, progress, fixed=True),
        "side-by-side": lambda path: render_side_by_side(video, motions, body, path, **span),
        "paths": lambda path: path_plot(motions, path),
        "sheet": lambda path: contact_sheet(video, motions, body, path, start=start, end=end),
        "viewer": lambda path: write_viewer(video, motions, body, path, start, with_mesh),
    }
    return [draw[name](out / FILES[name]) for name in names]


class OverlayBeside:
    """The overlay, drawn in a thread beside the stages that follow the poses.

    It shows people before the camera, so their paths may still change. Leaving the ``with``
    block stops the drawing, if :meth:`finish` has not waited for it, and leaves no half file.
    """

    def __init__(
        self,
        video: str | Path,
        motions: "list[Motion]",
        body: "BodyData",
        out: str | Path,
        start: float | None = None,
        end: float | None = None,
    ):
        self._drawn, self._stop = 0, threading.Event()
        self._pool = ThreadPoolExecutor(1, "overlay")
        self._file = self._pool.submit(
            render_previews, video, motions, body, out, ("overlay",), self._advance, start, end
        )

    def _advance(self, count: int) -> None:
        if self._stop.is_set():
            raise CancelledError
        self._drawn += count

    def finish(self, progress: Callable[[int], None] | None = None) -> list[Path]:
        """Wait for the file and return it; ``progress`` is told the frames drawn.

        Raises RopeTPError for an unreadable video or unwritable file.
        """
        told = 0
        while progress and not self._file.done():
            wait([self._file], POLL)
            progress(self._drawn - told)
            told = self._drawn
        return self._file.result()

    def __enter__(self) -> "OverlayBeside":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
