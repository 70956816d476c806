"""Pretrains an image encoder: ``python tools/pretrain_dino.py configs/quickstart/dino.yaml``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["pretrain-dino"].main())
