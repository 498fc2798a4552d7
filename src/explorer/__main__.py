"""``python -m src.explorer``: see :mod:`src.explorer.launch`."""

import sys

from .. import cli
from .launch import main


def start() -> None:
    """The console command of the installed package."""
    sys.exit(cli.run(main))


if __name__ == "__main__":
    start()
