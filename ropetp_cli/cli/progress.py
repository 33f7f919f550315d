"""Progress bars on stderr: a rate and an end time on a terminal, silence elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

STAGE_NAMES = {
    "fetch": "Fetching the video",
    "people": "Finding people",
    "edges": "Reading straight edges",
    "pose": "Estimating poses",
    "path": "Regenerating paths",
    "physics": "Simulating",
    "write": "Writing files",
    "preview": "Drawing previews",
}


class RateColumn(TextColumn):
    """Steps a second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[Callable]:
    """Yields ``progress(stage, total)`` for :func:`ropetp_cli.pipeline.capture`."""
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), RateColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=console, disable=quiet or not console.is_terminal,
    )  # fmt: skip

    @contextmanager
    def stage(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        task = bars.add_task(STAGE_NAMES.get(name, name), total=total or None)

        def advance(count: int = 1) -> None:
            bars.advance(task, count)

        yield advance
        done = bars.tasks[task].completed
        bars.update(task, total=done, completed=done)

    with bars:
        yield stage
