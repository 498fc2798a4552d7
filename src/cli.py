"""What every command of the project shares: how it starts, and how it ends when the user has to do something."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from src.errors import UserError


def run(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> int:
    """Run ``main(arguments)`` and return its exit code.

    0 when it ends, 2 with one line on stderr for a :class:`UserError` (a traceback too with ``--debug`` among the
    arguments), 130 for Ctrl-C. Any other exception is a defect of ours and keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        main(arguments)
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
