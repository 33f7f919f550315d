"""The errors a user may meet. Each is one line that names the file and the fix."""


class RopeTPError(Exception):
    """Something the user can act on. The command line prints its text and exits with 1."""

    exit_code = 1


class NobodyFound(RopeTPError):
    """The video or image holds no person the tool could follow. Exit code 3."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """What any error says in one printable line: its type where it says nothing.

    Words out of a file may be in it, and would otherwise break the line or steer the terminal.
    """
    text = str(error).strip() or type(error).__name__
    return printable(text.splitlines()[0])


def printable(text: str) -> str:
    """``text`` with line breaks and control characters written as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
