"""Providers, threads, and what happens when a graph cannot run."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from owlkit.errors import CheckpointError, ConfigError, OwlkitError
from owlkit.runtime import OnnxBackend, session
from owlkit.runtime.manifest import read_export
from owlkit.runtime.session import GraphSession, SessionOptions, device_provider

CPU = "CPUExecutionProvider"


@pytest.mark.parametrize("name", ["cpu", "CPU", CPU, (CPU, {"arena_extend_strategy": "kSame"})])
def test_providers_have_short_names(name: Any) -> None:
    options = {} if isinstance(name, str) else name[1]
    assert SessionOptions([name]).resolved() == [(CPU, options)]


def test_a_gpu_is_taken_where_there_is_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    known = ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: known)
    assert [name for name, _ in SessionOptions().resolved()] == known[1:]
    assert SessionOptions(["tensorrt", device_provider("cuda:1")]).resolved() == [
        ("TensorrtExecutionProvider", {}),
        ("CUDAExecutionProvider", {"device_id": 1}),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"providers": ["cuda"]}, r"\(.*cpu.*\), found 'cuda'; pip install onnxruntime-gpu"),
        ({"providers": ["cpu", "abacus"]}, "providers: expected one of .* found 'abacus'$"),
        ({"providers": "cpu"}, "providers: expected a list of names, found 'cpu'"),
        ({"providers": []}, "providers: expected a list of names"),
        ({"threads": 0}, "threads: expected at least 1, found 0"),
        ({"threads": 1.5}, "threads: expected at least 1, found 1.5"),
    ],
)
def test_what_is_not_there_is_named(
    exported: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(ConfigError, match=message):
        OnnxBackend(exported, **options)


def test_a_provider_that_does_not_start_is_no_silent_change_to_the_cpu(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime leaves it out with a line in the log, as on a machine without a driver."""
    known = ["CUDAExecutionProvider", CPU]
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: known)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, settings, providers: real(path, settings, [CPU]),
    )
    with pytest.raises(ConfigError, match="expected CUDAExecutionProvider to work on this machine"):
        OnnxBackend(exported, providers=["cuda"])
    assert OnnxBackend(exported).providers == (CPU,)


@pytest.mark.parametrize("device", ["cuda:x", "mps", "gpu"])
def test_other_devices_are_named_by_providers(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device: expected cpu, cuda or cuda:N .* {device!r}"):
        device_provider(device)


def test_threads_reach_the_session(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    real = onnxruntime.InferenceSession

    def make(path: str, settings: Any, providers: Any) -> Any:
        given.append(settings.intra_op_num_threads)
        return real(path, settings, providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    backend = OnnxBackend(exported, threads=1)
    backend.encode_texts(["cat"])
    assert given == [1, 1]


def test_a_graph_that_fails_raises_an_error_of_owlkit(exported: Path) -> None:
    graph = read_export(exported).image_encoder(None)
    outputs = ["class_embeds", "boxes", "logit_shift", "logit_scale", "objectness"]
    made = GraphSession(graph, inputs=["pixels"], outputs=outputs, options=SessionOptions(["cpu"]))
    with pytest.raises(
        OwlkitError, match=r"image_encoder\.onnx: cannot run on pixels \[1, 3, 8, 8]"
    ):
        made.run({"pixels": np.zeros((1, 3, 8, 8), np.float32)})


def test_a_graph_of_a_newer_onnx_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Unsupported model IR version: 99, max supported IR version: 10")

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", fail)
    with pytest.raises(CheckpointError, match=r"onnxruntime [\d.]+ cannot load it: .*version: 99"):
        OnnxBackend(exported)
