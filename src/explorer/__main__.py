"""``python -m src.explorer``: see :mod:`src.explorer.command`."""

import sys

from .. import cli
from .command import main


def start() -> None:
    """The console command of the installed package."""
    sys.exit(cli.run(main))


if __name__ == "__main__":
    start()
