"""Exceptions that are not bugs: errors that the user can fix, and termination by a signal."""


class UserError(Exception):
    """An error that the user can fix: a missing file, a wrong value, an unreadable image.

    The message is one line with file or key, value and remedy. Commands print it without a traceback, exit code 2.
    """


def reason_of(error: Exception) -> str:
    """The text of ``error`` for a message: an OSError without its number and path."""
    return str(getattr(error, "strerror", None) or error)


CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160)) if chr(number) not in "\t\n"}


def visible(text: str) -> str:
    """``text`` with its control characters escaped, except line breaks: file names may contain escape codes."""
    return text.translate(CONTROL)


class Terminated(BaseException):
    """The process received SIGTERM. A BaseException, so that no ``except Exception`` catches it."""
