"""Words beside examples: ``python tools/evaluate_queries.py MODEL --annotations A.json ...``."""

import sys

from owlkit.cli import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["evaluate-queries"].main())
