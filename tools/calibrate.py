"""Calibrates: ``python tools/calibrate.py MODEL --annotations A.json --images DIR --out Q``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["calibrate"].main())
