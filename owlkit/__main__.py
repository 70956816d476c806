"""``python -m owlkit``: the ``owlkit`` command."""

import sys

from owlkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
