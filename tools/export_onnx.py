"""Writes a model as ONNX graphs: ``python tools/export_onnx.py MODEL OUT``."""

import sys

from owlkit.cli import export
from owlkit.cli.command import Command

if __name__ == "__main__":
    sys.exit(Command(export.SUMMARY, export.add_arguments, export.run, extra="export").main())
