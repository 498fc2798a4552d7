"""``python -m src.explore``: see :mod:`src.explore.command`."""

import sys

from src import cli
from src.explore.command import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
