"""The one exception whose text is written for the person at the keyboard."""


class UserError(Exception):
    """Something the user can put right: a missing file, a wrong value, an unreadable image.

    The message is one line that names the thing, its value and the remedy. The entry scripts print it to stderr
    and exit with code 2, without a traceback (see :mod:`src.cli`).
    """
