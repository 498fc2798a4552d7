"""Exceptions that are not bugs: errors that the user can fix, and termination by a signal."""


class UserError(Exception):
    """An error that the user can fix: a missing file, a wrong value, an unreadable image.

    The message is one line with the file or key, its value and the remedy. Commands print it to stderr and exit with
    code 2, without a traceback (see :mod:`src.cli`).
    """


class Terminated(BaseException):
    """The process received SIGTERM. A BaseException, so that no ``except Exception`` catches it."""
