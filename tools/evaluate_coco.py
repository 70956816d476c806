"""Measures: ``python tools/evaluate_coco.py MODEL --annotations A.json --images DIR``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["evaluate"].main())
