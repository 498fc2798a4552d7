"""Exceptions that are no defects: one whose text is written for the person at the keyboard, one that asks to stop."""


class UserError(Exception):
    """Something the user can put right: a missing file, a wrong value, an unreadable image.

    The message is one line that names the thing, its value and the remedy. The entry scripts print it to stderr
    and exit with code 2, without a traceback (see :mod:`src.cli`).
    """


class Terminated(BaseException):
    """The operating system or a scheduler asks the process to end (SIGTERM); no ``except Exception`` may stop it."""
