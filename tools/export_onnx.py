"""Writes a model as ONNX graphs: ``python tools/export_onnx.py MODEL OUT``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["export"].main())
