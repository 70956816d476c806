"""Measures encoders: ``python tools/evaluate_encoder.py MODEL --classes DIR --out OUT``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["evaluate-encoder"].main())
