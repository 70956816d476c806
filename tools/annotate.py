"""Labels a folder of images: ``python tools/annotate.py MODEL IMAGES --queries F --out DIR``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["annotate"].main())
