"""Exceptions that are not bugs: errors that the user can fix, and termination by a signal."""


class UserError(Exception):
    """An error that the user can fix: a missing file, a wrong value, an unreadable image.

    The message is one line with file or key, value and remedy. Commands print it without a traceback, exit code 2.
    """


class Terminated(BaseException):
    """The process received SIGTERM. A BaseException, so that no ``except Exception`` catches it."""
