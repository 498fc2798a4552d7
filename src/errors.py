"""Exceptions that are not bugs: errors that the user can fix, and the request to terminate."""


class UserError(Exception):
    """Something the user can fix: a missing file, a wrong value, an unreadable image.

    The message is one line that names the thing, its value and the remedy. The entry scripts print it to stderr
    and exit with code 2, without a traceback (see :mod:`src.cli`).
    """


class Terminated(BaseException):
    """The process received SIGTERM; not an Exception, so that no ``except Exception`` catches it."""
