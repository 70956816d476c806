"""Makes a detector folder: ``python tools/make_detector.py configs/owl_b16.yaml OUT``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["make-detector"].main())
