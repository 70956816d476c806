"""Exported graphs against the model they were made of, on inputs that the export has not seen.

Shapes: B images, P patches, Q queries, L tokens, E embedding width.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from owlkit.errors import CheckpointError

Array = NDArray[Any]


@dataclass(frozen=True)
class Tolerance:
    """The largest absolute differences between a graph and its model that are accepted.

    Attributes:
        boxes: Of boxes in [0, 1].
        logits: Of logits of queries and of objectness.
        embeddings: Of each number of a unit vector.
        attention: Of the share of a head's attention that a patch gets.
        rounding: Where a detector itself moves by more than a tolerance when its input moves by as
            much as float32 rounds, that movement times this is accepted; 0 for no such allowance.
    """

    boxes: float = 1e-4
    logits: float = 1e-3
    embeddings: float = 1e-4
    attention: float = 1e-5
    rounding: float = 10.0


@dataclass(frozen=True)
class Deviation:
    """The largest difference of one output in one run.

    Attributes:
        graph: File name of the graph.
        case: What it was run on.
        output: Name of the output.
        difference: Largest absolute difference to the model.
        tolerance: What is accepted; None for outputs that have no scale of their own and are judged
            by the logits that they become.
    """

    graph: str
    case: str
    output: str
    difference: float
    tolerance: float | None

    @property
    def is_accepted(self) -> bool:
        """Whether the difference is a number within the tolerance."""
        limit = np.inf if self.tolerance is None else self.tolerance
        return bool(np.isfinite(self.difference) and self.difference <= limit)


@dataclass(frozen=True)
class Parity:
    """All that was compared.

    Attributes:
        deviations: One for each output of each run.
    """

    deviations: tuple[Deviation, ...] = field(default=(), repr=False)

    def __add__(self, other: "Parity") -> "Parity":
        return Parity(self.deviations + other.deviations)

    @property
    def worst(self) -> tuple[Deviation, ...]:
        """Of each output of each graph the run that differs most."""
        found: dict[tuple[str, str], Deviation] = {}
        for each in self.deviations:
            key = (each.graph, each.output)
            # What is no number is the worst of all.
            if key not in found or not each.difference <= found[key].difference:
                found[key] = each
        return tuple(found.values())

    def table(self) -> str:
        """The worst of each output, as a Markdown table."""
        lines = [
            "| graph | output | largest difference | tolerance | at |",
            "|---|---|---|---|---|",
        ]
        for each in self.worst:
            limit = "-" if each.tolerance is None else f"{each.tolerance:g}"
            cells = (each.graph, each.output, f"{each.difference:.1e}", limit, each.case)
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All rows and the versions that were compared, ready for JSON."""
        return {
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "rows": [vars(each) for each in self.deviations],
        }

    @property
    def is_accepted(self) -> bool:
        """Whether all differences are within their tolerances."""
        return all(each.is_accepted for each in self.deviations)

    def check(self, where: str | Path) -> None:
        """Makes sure that all differences are accepted.

        Raises:
            CheckpointError: Otherwise, with the table.
        """
        if not self.is_accepted:
            raise CheckpointError(
                f"{where}: expected graphs that agree with the model, found\n{self.table()}"
            )


class GraphRun:
    """A graph on the CPU.

    Args:
        path: The file.

    Raises:
        CheckpointError: If ONNX Runtime cannot load or run it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        options = onnxruntime.SessionOptions()
        # Errors only: what is unusual about a graph shows in the comparison.
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        with self._faults():
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Returns the outputs by name.

        Args:
            inputs: An array for each input.
        """
        with self._faults():
            found = self._session.run(self._names, inputs)
        return dict(zip(self._names, found, strict=True))

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        # ONNX Runtime's exceptions share no base below Exception.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{self._path}: ONNX Runtime cannot run it: {reason}") from error


def largest_difference(found: Array, expected: Array) -> float:
    """Largest absolute difference; NaN if shapes differ or one of them is no number."""
    if found.shape != expected.shape:
        return float("nan")
    return float(np.abs(found - expected).max(initial=0.0))


def compare(
    graph: str,
    case: str,
    found: Mapping[str, Array],
    expected: Mapping[str, Array],
    tolerances: Mapping[str, float],
) -> Parity:
    """Compares outputs by name.

    Args:
        graph: File name of the graph.
        case: What it was run on.
        found: What the graph gave.
        expected: What the model gave.
        tolerances: By output; those that are not named are only reported.
    """
    return Parity(
        tuple(
            Deviation(
                graph,
                case,
                name,
                largest_difference(found[name], expected[name]),
                tolerances.get(name),
            )
            for name in expected
        )
    )
