"""The errors a user may meet. Each is one line that names the file and the fix."""


class RopeTPError(Exception):
    """Something the user can act on. The command line prints its text and exits with 1."""

    exit_code = 1


class NobodyFound(RopeTPError):
    """The video or image holds no person the tool could follow. Exit code 3."""

    exit_code = 3
