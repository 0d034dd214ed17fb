"""Command line of :mod:`utils.training.checkpoint`: ``python -m utils.checkpoint --help``."""

from utils.training.checkpoint import main

if __name__ == "__main__":
    main()
