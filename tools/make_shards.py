"""Writes tar shards: ``python tools/make_shards.py CAPTIONS IMAGES OUT [--per-shard 1000]``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["make-shards"].main())
