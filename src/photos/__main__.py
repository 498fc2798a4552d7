"""``python -m src.photos``: see :mod:`src.photos.command`."""

import sys

from src import cli
from src.photos.command import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
