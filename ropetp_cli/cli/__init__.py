"""The command line. One file a command; a command's module is imported when it runs.

Each module of this package offers one click command named ``command``. Errors a user may meet
end in one line on stderr; ``--debug`` on any command shows the traceback instead.
"""

import importlib
import os
import sys

import click

from ropetp_cli import __version__
from ropetp_cli.errors import RopeTPError, first_line

COMMANDS = {
    "capture": "One video in, every person's motion out.",
    "batch": "Capture every video below a directory.",
    "pose": "Poses of the people in still images.",
    "tracks": "Show who is in a video, with ids.",
    "preview": "Draw the previews of a finished capture again.",
    "clean": "Throw away the stage caches of captures.",
    "export": "Convert a motion to other formats.",
    "setup": "Install a licensed body or check the weights.",
    "doctor": "What is installed, what is missing, and the fix.",
    "train": "Train Rope or the trajectory denoiser.",
    "evaluate": "Measure against ground truth, as the paper's tables do.",
}


def _prepare(command: click.Command, path: tuple[str, ...]) -> None:
    """Give a command ``--debug`` and its options their ROPETP_* variables."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            _prepare(child, (*path, name))
        return
    for param in command.params:
        if isinstance(param, click.Option) and param.envvar is None:
            option = max(param.opts, key=len).lstrip("-").replace("-", "_").upper()
            param.envvar = ["_".join(["ROPETP", *path, option]).upper(), f"ROPETP_{option}"]
    command.params.append(
        click.Option(
            ["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."
        )
    )


class LazyGroup(click.Group):
    """A group whose commands are modules, imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"ropetp_cli.cli.{name}").command
        if not getattr(command, "prepared", False):
            _prepare(command, (name,))
            command.prepared = True
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ropetp")
def group() -> None:
    """Motion capture from ordinary video: global SMPL motion as npz, BVH and more."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 3 nobody found."""
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args
    try:
        code = group.main(args=args, prog_name="ropetp", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("ropetp: stopped; finished files are kept", err=True)
        sys.exit(130)
    except RopeTPError as error:
        if debug:
            raise
        click.echo(f"ropetp: error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"ropetp: unexpected {type(error).__name__}: {first_line(error)} (--debug shows where)",
            err=True,
        )
        sys.exit(1)
