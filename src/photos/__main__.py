"""``python -m src.photos``: see :mod:`src.photos.command`."""

import sys

from .. import cli
from .command import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
