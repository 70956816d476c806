"""Trains a detector: ``python tools/train_detector.py configs/owl_b16.yaml [key=value ...]``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["train"].main())
