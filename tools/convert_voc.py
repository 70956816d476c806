"""Converts Pascal VOC annotations: ``python tools/convert_voc.py FOLDER OUT.json``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["convert"].main(["voc", *sys.argv[1:]]))
