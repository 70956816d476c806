"""Times owlkit's hot paths against named peers: ``python tools/benchmark.py predict preprocess``.

Both sides of a comparison run in this process, on the same weights and inputs, in turn, after a
warm-up; a row is the median, the ratio is taken pair by pair. A ratio above 1 means that owlkit is
faster. With ``--json OUT`` the rows are written as a list of objects.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

from benchmarks.comparison import HEADER, Row
from benchmarks.evaluate import evaluate
from benchmarks.export import coldstart, predict_onnx
from benchmarks.load import load
from benchmarks.memory import MemoryRow, loss_memory
from benchmarks.predict import predict, preprocess
from benchmarks.pretrain import pretrain
from benchmarks.query import query
from benchmarks.selfsup import selfsup
from benchmarks.siglip_memory import KeptRow, siglip_memory
from benchmarks.train import train

PATHS: dict[str, Callable[[int, Path], Iterator[Row | MemoryRow | KeptRow]]] = {
    "predict": predict,
    "query": query,
    "predict-onnx": predict_onnx,
    "coldstart": coldstart,
    "preprocess": preprocess,
    "pretrain": pretrain,
    "selfsup": selfsup,
    "train": train,
    "loss_memory": loss_memory,
    "siglip_memory": siglip_memory,
    "evaluate": evaluate,
    "load": load,
}


def main() -> int:
    """Runs the named paths."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", choices=[*PATHS, "all"], metavar="PATH")
    parser.add_argument("--repeats", type=int, default=7, help="pairs per comparison")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    names = list(PATHS) if "all" in options.paths else options.paths
    print(f"{_machine()}\n\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row for name in names for row in PATHS[name](options.repeats, Path(scratch))]
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    packages = ("torch", "timm", "transformers", "pycocotools", "faster-coco-eval", "owlkit")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{device}, {torch.get_num_threads()} threads, {platform.machine()}, Python "
        f"{platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    sys.exit(main())
