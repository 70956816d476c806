"""Pretrains two encoders: ``python tools/pretrain_clip.py configs/quickstart/clip.yaml``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["pretrain"].main())
