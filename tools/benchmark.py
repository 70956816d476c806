"""Times owlkit's hot paths against named peers: ``python tools/benchmark.py predict preprocess``.

Both sides of a comparison run in this process, on the same weights and inputs, in turn, after a
warm-up; a row is the median, the ratio is taken pair by pair. A ratio above 1 means that owlkit is
faster. Where there is a GPU, both sides use it. ``--json OUT`` writes the rows as a list of
objects, ``--markdown OUT`` as a table under a description of the machine; both are complete after
every row.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.comparison import watching
from benchmarks.machine import describe_machine
from benchmarks.paths import GROUPS, PATHS, TRAINING, chosen_paths, find_comparison
from benchmarks.profile import profile_tables
from benchmarks.table import HEADER, Record, write_json, write_markdown
from owlkit.engine.kept_memory import kept_memory


def main() -> int:
    """Runs the named paths."""
    options = _parse_arguments()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    machine = describe_machine()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{machine}\n\n{HEADER}", flush=True)
    records: list[Record] = []
    profiles: list[str] = []

    def add_profile(path: str, function: Callable[[], Any]) -> None:
        profiles.append(profile_tables(path, function))

    with (
        tempfile.TemporaryDirectory() as scratch,
        watching(add_profile) if options.profile else nullcontext(),
    ):
        for path in chosen_paths(options.paths):
            with kept_memory(device) if path in TRAINING else nullcontext():
                for row in find_comparison(path)(options.repeats, Path(scratch)):
                    records.append(asdict(row))
                    if options.json:
                        write_json(records, options.json)
                    if options.markdown:
                        write_markdown(machine, records, profiles, options.markdown)
    if profiles:
        print("", *profiles, sep="\n\n")
    if options.plot:
        # Slow to import, and not needed otherwise.
        from benchmarks.curves_plot import draw_curves

        draw_curves(records, options.plot)
    return 0


def _parse_arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog=f"groups: {', '.join(GROUPS)}, all; paths: {', '.join(PATHS)}",
    )
    names = sorted({*GROUPS, *PATHS, "all"})
    parser.add_argument("paths", nargs="+", choices=names, metavar="PATH", help="path or group")
    parser.add_argument("--repeats", type=int, default=7, help="pairs per comparison, at most")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the rows as data")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="file for the table")
    parser.add_argument(
        "--profile", action="store_true", help="show where owlkit's time goes, after each path"
    )
    parser.add_argument("--plot", type=Path, metavar="OUT", help="picture of the curves")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
