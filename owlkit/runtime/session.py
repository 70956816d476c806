"""Sessions of ONNX Runtime: where and with how many threads a graph runs.

Shapes: B images, Q texts, L tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from owlkit.errors import CheckpointError, ConfigError, OwlkitError
from owlkit.runtime.manifest import GraphFile

Provider = str | tuple[str, Mapping[str, Any]]
Arrays = dict[str, NDArray[Any]]

_CPU = "CPUExecutionProvider"
# On what `None` means: the first that this installation has. TensorRT is not among them, because
# it takes minutes to build its engine.
_PREFERRED = ("CUDAExecutionProvider", "ROCMExecutionProvider", _CPU)
_SUFFIX = "ExecutionProvider"
# Errors only: warnings tell of devices that were not asked for.
_LOG_ERRORS = 3
_DEVICE = re.compile(r"(cpu|cuda)(?::(\d+))?")
# Providers whose graphs gain from buffers that stay where they are, and their device's name.
_BOUND = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}


@dataclass(frozen=True)
class SessionOptions:
    """Where graphs run.

    Attributes:
        providers: Execution providers, the first that can run a part of the graph does: names such
            as ``"cpu"``, ``"cuda"``, ``"tensorrt"``, ``"openvino"`` or ONNX Runtime's own
            ``"CUDAExecutionProvider"``, or pairs of a name and its options. None takes a GPU if
            this installation has a provider for one.
        threads: Of the CPU provider, for one operator; None for one per core.
        io_binding: Run through buffers that stay where they are on the device, which spares
            allocations and which graph capture needs; None does so on NVIDIA GPUs.

    Raises:
        ConfigError: If a provider is not there, or the number of threads is not positive.
    """

    providers: Sequence[Provider] | None = None
    threads: int | None = None
    io_binding: bool | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise ConfigError(f"threads: expected at least 1, found {self.threads!r}")
        self.resolved()

    def resolved(self) -> list[tuple[str, dict[str, Any]]]:
        """The providers under ONNX Runtime's names, each with its options."""
        available = onnxruntime.get_available_providers()
        if self.providers is None:
            return [(name, {}) for name in _PREFERRED if name in available]
        if isinstance(self.providers, str) or not self.providers:
            raise ConfigError(f"providers: expected a list of names, found {self.providers!r}")
        return [_resolved(provider, available) for provider in self.providers]


def device_provider(device: str) -> Provider:
    """The provider of a device as PyTorch calls it: ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ConfigError: If it is none of these.
    """
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise ConfigError(
            f"device: expected cpu, cuda or cuda:N for an exported model, found {device!r}; "
            "providers name all others"
        )
    name, number = match.groups()
    return name if number is None or name == "cpu" else (name, {"device_id": int(number)})


def _resolved(provider: Provider, available: Sequence[str]) -> tuple[str, dict[str, Any]]:
    name, options = (provider, {}) if isinstance(provider, str) else provider
    wanted = name.strip().lower().removesuffix(_SUFFIX.lower())
    for known in available:
        if known.removesuffix(_SUFFIX).lower() == wanted:
            return known, dict(options)
    found = ", ".join(known.removesuffix(_SUFFIX).lower() for known in available)
    advice = "; pip install onnxruntime-gpu" if wanted in ("cuda", "tensorrt") else ""
    raise ConfigError(
        f"providers: expected one of this installation of onnxruntime ({found}), found "
        f"{name!r}{advice}"
    )


class GraphSession:
    """A graph that runs; may be used from several threads.

    Args:
        graph: The file, which is checked against its digest.
        inputs: Names that the graph must take.
        outputs: Names that it must give.
        options: Where it runs.

    Raises:
        CheckpointError: If the file is missing, altered, or not such a graph.
        ConfigError: If a provider cannot be used on this machine.
    """

    def __init__(
        self,
        graph: GraphFile,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        options: SessionOptions,
    ) -> None:
        graph.check()
        self._path = graph.path
        self._outputs = list(outputs)
        self._session = _make_session(graph, options)
        for what, expected, nodes in (
            ("inputs", inputs, self._session.get_inputs()),
            ("outputs", outputs, self._session.get_outputs()),
        ):
            names = [node.name for node in nodes]
            if sorted(names) != sorted(expected):
                raise CheckpointError(
                    f"{graph.path}: {what}: expected {', '.join(expected)}, found "
                    f"{', '.join(names)}; export the model again"
                )
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        device = _BOUND.get(self.providers[0], "cpu")
        bind = device != "cpu" if options.io_binding is None else options.io_binding
        self._buffers = _Buffers(self._session, self._outputs, device) if bind else None

    def run(self, feeds: Arrays) -> list[NDArray[Any]]:
        """Runs the graph.

        Args:
            feeds: An array for each input.

        Returns:
            The outputs in the order of their names; nobody else writes to them.

        Raises:
            OwlkitError: If the graph fails, for example because memory does not suffice.
        """
        try:
            if self._buffers is not None:
                return self._buffers.run(feeds)
            results: list[NDArray[Any]] = self._session.run(self._outputs, feeds)
        # ONNX Runtime's exceptions share no base below Exception.
        except Exception as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise OwlkitError(f"{self._path}: cannot run on {shapes}: {_reason(error)}") from error
        return results


class _Buffers:
    """One binding of a session, whose buffers on the device are made anew for new shapes only."""

    def __init__(self, session: Any, outputs: Sequence[str], device: str) -> None:
        self._session = session
        self._outputs = outputs
        self._device = device
        self._binding = session.io_binding()
        self._inputs: dict[str, Any] = {}
        self._lock = Lock()

    def run(self, feeds: Arrays) -> list[NDArray[Any]]:
        with self._lock:
            if any(self._shape(name) != array.shape for name, array in feeds.items()):
                self._bind(feeds)
            for name, array in feeds.items():
                self._inputs[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(self._binding)
            # Copies, because the next run overwrites the buffers.
            return [value.numpy().copy() for value in self._binding.get_outputs()]

    def _shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._inputs[name].shape()) if name in self._inputs else None

    def _bind(self, feeds: Arrays) -> None:
        # Not made from the arrays: on the CPU they would share the caller's memory.
        self._inputs = {
            name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                array.shape, array.dtype, self._device, 0
            )
            for name, array in feeds.items()
        }
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            self._binding.bind_output(name, self._device)


def _make_session(graph: GraphFile, options: SessionOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _LOG_ERRORS
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    providers = options.resolved()
    try:
        session = onnxruntime.InferenceSession(str(graph.path), settings, providers=providers)
    # ONNX Runtime's exceptions share no base below Exception.
    except Exception as error:
        raise CheckpointError(
            f"{graph.path}: onnxruntime {onnxruntime.__version__} cannot load it: {_reason(error)}"
        ) from error
    used = session.get_providers()
    lost = [name for name, _ in providers if name not in used]
    # A provider that fails to start is left out with a line in the log only.
    if options.providers is not None and lost:
        raise ConfigError(
            f"providers: expected {', '.join(lost)} to work on this machine, found that it does "
            f"not start; {', '.join(used)} does"
        )
    return session


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."
