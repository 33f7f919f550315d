"""``ropetp batch DIR``: every video below a directory."""

import json
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from ropetp_cli.cli.options import capture_options, check_span

if TYPE_CHECKING:
    from rich.table import Table

    from ropetp_cli.batch import Ledger, News


@click.command()
@click.argument("directory", metavar="DIRECTORY|URL")
@click.option("-o", "--out", metavar="DIR|URL",
              help="Where the run directories go; beside each video if not given.")  # fmt: skip
@capture_options
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Videos at a time; they share this machine's cores.")  # fmt: skip
@click.option("--ray", metavar="ADDRESS|auto", help="Hand the videos to a Ray cluster instead "
              "(ropetp[ray]; all nodes see the same paths, or URLs).")  # fmt: skip
@click.option("--force", is_flag=True, help="Capture again what is finished.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No live table.")
def command(
    directory: str,
    out: str | None,
    jobs: int,
    ray: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **options,
) -> None:
    """Capture every video below DIRECTORY, which may be an fsspec URL (s3://, gs://, ...).

    Finished ones are recognised by their content, options and weights and skipped; a failed one
    does not stop the rest; what is stopped goes on where it was. The summary is also written to
    batch.json where the runs go. Exits 1 if any failed.
    """
    check_span(options["start"], options["end"])
    from rich.console import Console
    from rich.live import Live

    from ropetp_cli.batch import FAILED, NOBODY, Ledger, capture_here, find_jobs, follow
    from ropetp_cli.storage import place, writable

    source, target = place(directory), place(out) if out else None
    ledger = Ledger(find_jobs(source, target), options, writable(target or source))
    if not force:
        ledger.settle_finished()
    todo = {number: ledger.jobs[number] for number in ledger.open}
    if ray is not None and todo:
        from ropetp_cli.cluster import capture_on_ray

        news = capture_on_ray(todo, options, force, ray)
    else:
        news = capture_here(todo, options, force, jobs)
    console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
    view = View(ledger)
    with (
        Live(console=console, auto_refresh=False, transient=True) as live,
        closing(follow(news, ledger)) as followed,
    ):
        for item in followed:
            view.take(item)
            live.update(view.table(console.height), refresh=True)
    for outcome in ledger.outcomes.values():
        if outcome.result in (FAILED, NOBODY):
            kind = "error" if outcome.result == FAILED else "note"
            click.echo(f"ropetp: {kind}: {outcome.message}", err=True)
    if as_json:
        click.echo(json.dumps(ledger.summary()))
    else:
        Console().print(view.table())
    sys.exit(1 if FAILED in ledger.counts else 0)


class View:
    """The table of a batch: one row a video."""

    def __init__(self, ledger: "Ledger"):
        self.ledger = ledger
        self._running: dict[int, News] = {}
        self._began = time.monotonic()

    def take(self, news: "News") -> None:
        """Note the latest of a video."""
        if news.outcome is None:
            self._running[news.number] = news
        else:
            self._running.pop(news.number, None)

    def table(self, height: int | None = None) -> "Table":
        """Every video; with ``height``, as many rows as fit around those at work."""
        from rich.table import Table

        counts = ", ".join(f"{count} {result}" for result, count in self.ledger.counts.items())
        left = len(self.ledger.open)
        title = f"{counts or 'none done'}{f', {left} to go' if left else ''}"
        table = Table(title=f"{title}; {time.monotonic() - self._began:.0f} s")
        for name in ("video", "result", "people", "frames", "s", "files in"):
            table.add_column(name, overflow="fold")
        first, last = self._window(height)
        for number in range(first, last):
            table.add_row(*self._row(number))
        return table

    def _window(self, height: int | None) -> tuple[int, int]:
        count = len(self.ledger.jobs)
        room = count if height is None else max(1, min(count, height - 6))
        middle = min(self._running, default=min(self.ledger.open, default=count))
        first = max(0, min(middle - room // 2, count - room))
        return first, first + room

    def _row(self, number: int) -> tuple[str, ...]:
        from rich.markup import escape

        from ropetp_cli.cli.progress import STAGE_NAMES

        job = self.ledger.jobs[number]
        name = escape(job.name)
        if (outcome := self.ledger.outcomes.get(number)) is not None:
            colour = {"failed": "red", "nobody found": "yellow"}.get(outcome.result, "green")
            figures = [str(value or "") for value in (outcome.people, outcome.frames)]
            seconds = f"{outcome.seconds:.1f}" if outcome.seconds else ""
            run = escape(job.run) if outcome.people else ""
            return name, f"[{colour}]{outcome.result}[/]", *figures, seconds, run
        if (news := self._running.get(number)) is not None:
            share = "" if news.share is None else f" {news.share:.0%}"
            return name, STAGE_NAMES.get(news.stage, news.stage) + share, "", "", "", ""
        return name, "[dim]waiting[/]", "", "", "", ""
