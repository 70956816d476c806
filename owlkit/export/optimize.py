"""Graphs that ONNX Runtime runs faster or in less memory: its own fused attention.

Fused attention never holds the matrix of all pairs of tokens, which is what large inputs run out of
memory for. It is an operator of ONNX Runtime alone (domain ``com.microsoft``): a graph that has it
runs nowhere else, so it is kept only where a measurement says that it helps.

Nothing else is done, because nothing else helped: constants are folded by the exporter, and what
ONNX Runtime's offline optimiser does beyond that it also does whenever it loads a graph.
"""

import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from onnxscript.rewriter.ort_fusions import optimize_for_ort

from owlkit.errors import CheckpointError

FUSED_DOMAINS = ("com.microsoft",)
"""Where the operators of optimised graphs come from, beside the standard."""

# Speed on a shared machine moves by a few percent by itself.
_FASTER = 1.05
_NOT_SLOWER = 0.95
_LESS_MEMORY = 0.8

_ATTENTION = "sdpa"
_ONLY_FATAL = 4

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class OptimizeReport:
    """What was tried on one graph, and what came of it.

    Attributes:
        file: Name of the graph's file.
        kept: Whether the file now holds the optimised graph.
        reason: Why, in words.
        fusions: How often each pattern was found, by its name.
        differences: Largest absolute difference of each output over all inputs, by its name.
        speed: Time of the plain graph divided by that of the optimised one, median over rounds that
            run both; None if it was not measured.
        memory_mib: Largest resident memory of a process that runs the plain and the optimised graph
            once, in MiB; None where the system does not tell (other than Linux).
    """

    file: str
    kept: bool
    reason: str
    fusions: dict[str, int] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    speed: float | None = None
    memory_mib: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report ready for JSON."""
        return asdict(self)


def optimize_graph(
    path: str | Path,
    feeds: Sequence[Feed],
    *,
    tolerance: float = 1e-4,
    rounds: int = 5,
    threads: int | None = None,
) -> OptimizeReport:
    """Fuses a graph's attention, and keeps that if it gives the same numbers and helps.

    It helps if the graph gets 1.05 times as fast, or needs 0.8 times the memory without getting
    slower than 0.95 times. The CPU is what is measured.

    Args:
        path: An ONNX file; replaced as a whole, or left as it is.
        feeds: Inputs to compare on, at least one, preferably of different batch sizes; the first is
            timed.
        tolerance: Largest absolute difference that an output may have.
        rounds: How often both graphs are timed in turn.
        threads: Of ONNX Runtime; None lets it choose.

    Raises:
        CheckpointError: If there is no such file, or the plain graph does not run on the inputs.
    """
    path = Path(path)
    plain = _session(path, threads)
    # In the same folder, where it finds weights that lie in a file of their own.
    scratch = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        report = OptimizeReport(path.name, kept=False, reason="", fusions=_fuse(path, scratch))
        report = _tried(report, plain, scratch, feeds, tolerance, threads)
        if report.differences and not report.reason:
            speed = _speed(plain, _session(scratch, threads), feeds[0], rounds)
            report = _judged(report, speed, _memories((path, scratch), feeds[0], threads))
        if report.kept:
            scratch.replace(path)
        return report
    finally:
        scratch.unlink(missing_ok=True)


def image_feeds(size: tuple[int, int], batches: Sequence[int] = (1, 3)) -> list[Feed]:
    """Noise for an image graph.

    Args:
        size: (H, W) in pixels.
        batches: Number of images of each feed.
    """
    generator = np.random.default_rng(0)
    return [
        {"pixels": generator.standard_normal((batch, 3, *size), dtype=np.float32)}
        for batch in batches
    ]


def _fuse(path: Path, optimised: Path) -> dict[str, int]:
    """Writes the graph with fused operators; returns how often each pattern was found."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        model, found = optimize_for_ort(onnx_ir.load(path))
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    onnx_ir.save(model, optimised)
    return {name: count for name, count in found.items() if count}


def _tried(
    report: OptimizeReport,
    plain: InferenceSession,
    optimised: Path,
    feeds: Sequence[Feed],
    tolerance: float,
    threads: int | None,
) -> OptimizeReport:
    """The report with differences, and with a reason if the graph cannot be kept."""
    if not any(_ATTENTION in name for name in report.fusions):
        return replace(report, reason="no attention was found")
    try:
        session = _session(optimised, threads)
    except CheckpointError as error:
        return replace(report, reason=f"the optimised graph does not load: {error}")
    names = [output.name for output in plain.get_outputs()]
    largest = dict.fromkeys(names, 0.0)
    for feed in feeds:
        for name, a, b in zip(names, _run(plain, feed), _run(session, feed), strict=True):
            # A value that is not a number differs from everything.
            difference = float(np.abs(a - b).max(initial=0))
            largest[name] = max(largest[name], math.inf if math.isnan(difference) else difference)
    worst = max(largest, key=lambda name: largest[name])
    if largest[worst] > tolerance:
        reason = f"{worst} moved by {largest[worst]:.2g}, more than {tolerance:g}"
        return replace(report, differences=largest, reason=reason)
    return replace(report, differences=largest)


def _judged(
    report: OptimizeReport, speed: float, memory: tuple[float, float] | None
) -> OptimizeReport:
    """The report with its measurements and what follows from them."""
    report = replace(report, speed=speed, memory_mib=memory)
    share = 1.0 if memory is None else memory[1] / memory[0]
    found = f"{speed:.2f} times as fast in {share:.2f} times the memory"
    kept = speed >= _FASTER or (speed >= _NOT_SLOWER and share <= _LESS_MEMORY)
    return replace(report, kept=kept, reason=found if kept else f"no gain: {found}")


def _session(path: Path, threads: int | None) -> InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {error}") from error


def _run(session: InferenceSession, feed: Feed) -> list[NDArray[Any]]:
    try:
        return [np.asarray(output) for output in session.run(None, dict(feed))]
    except Exception as error:
        shapes = {name: list(values.shape) for name, values in feed.items()}
        raise CheckpointError(f"a graph does not run on {shapes}: {error}") from error


def _speed(plain: InferenceSession, optimised: InferenceSession, feed: Feed, rounds: int) -> float:
    """How many times as fast, median of rounds that run both, after one to warm up."""
    ratios = []
    for _ in range(rounds + 1):
        seconds = []
        for session in (plain, optimised):
            start = time.perf_counter()
            _run(session, feed)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])


# A fresh process, because memory that one has asked for once stays counted.
_MEMORY_SCRIPT = """
import sys
import numpy, onnxruntime
graph, feed, threads = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = int(threads)
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
session.run(None, dict(numpy.load(feed)))
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def _memories(
    paths: tuple[Path, Path], feed: Feed, threads: int | None
) -> tuple[float, float] | None:
    """Largest resident memory, in MiB, of a process that runs each graph once."""
    if not sys.platform.startswith("linux"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "feed.npz"
        np.savez(inputs, **feed)  # type: ignore[arg-type]
        first, second = (_memory(path, inputs, threads or 0) for path in paths)
    return first, second


def _memory(path: Path, inputs: Path, threads: int) -> float:
    command = [sys.executable, "-c", _MEMORY_SCRIPT, str(path), str(inputs), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckpointError(f"{path}: a process of its own cannot run it: {done.stderr[-500:]}")
    return int(done.stdout) / 1024
