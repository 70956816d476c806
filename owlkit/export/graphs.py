"""Modules become ONNX files that hold standard operators only."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from owlkit.errors import ConfigError

OPSET = 20
"""Version of ONNX's operators that graphs are written in; it is the first with GELU."""

STANDARD = ("", "ai.onnx")
"""Domains of the operators that every runtime has."""

# Says which module of the model a node comes from.
_NAMESPACE = "namespace"


def write_graph(
    module: nn.Module,
    path: Path,
    *,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> None:
    """Traces a module and writes it as an ONNX file, which is then checked.

    Weights of 2 GB and more lie in a file of their own, ``<path>.data``.

    Args:
        module: In evaluation mode.
        path: The file.
        inputs: Examples, by the names of the arguments of ``forward``; a dynamic axis is at least 2
            long, so that nothing takes its length for a constant.
        outputs: Names of what ``forward`` returns.
        dynamic: Names of the axes whose length is free, by input and axis.

    Raises:
        ConfigError: If the module cannot be expressed in standard operators.
    """
    with torch.no_grad(), _quiet():
        try:
            program = torch.onnx.export(
                module,
                kwargs=dict(inputs),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={name: dict(dynamic.get(name, {})) for name in inputs},
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ConfigError(
                f"{path.name}: torch cannot express this model in ONNX: {_first_line(error)}"
            ) from error
        assert program is not None
        _forget_sources(program.model.graph)
        program.save(path)
    check_graph(path)


def _forget_sources(graph: Any) -> None:
    """Drops what the exporter notes of the source code: half of a small file, and private paths."""
    for value in (*graph.all_nodes(), *graph.initializers.values()):
        kept = value.metadata_props.get(_NAMESPACE)
        value.metadata_props.clear()
        if kept is not None:
            value.metadata_props[_NAMESPACE] = kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    deepest = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    return (str(deepest).strip().splitlines() or [type(deepest).__name__])[0]


def check_graph(path: Path, *, domains: Sequence[str] = STANDARD) -> None:
    """Makes sure that an ONNX file is valid, of the stated opset, and has known operators only.

    Args:
        path: The file; weights beside it are not read.
        domains: Where operators may come from.

    Raises:
        ConfigError: If it is not so; says why.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConfigError(f"{path}: not a valid ONNX graph: {_first_line(error)}") from error
    model = onnx.load(str(path), load_external_data=False)
    opset = next((each.version for each in model.opset_import if each.domain in STANDARD), None)
    if opset != OPSET:
        raise ConfigError(f"{path}: expected operators of version {OPSET}, found {opset}")
    strange = {
        f"{node.domain}.{node.op_type}" for node in _nodes(model) if node.domain not in domains
    }
    if strange:
        raise ConfigError(f"{path}: operators that not every runtime has: {sorted(strange)}")


def _nodes(model: onnx.ModelProto) -> Iterator[Any]:
    yield from _graph_nodes(model.graph.node)
    for function in model.functions:
        yield from _graph_nodes(function.node)


def _graph_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _graph_nodes(attribute.g.node)
            for graph in attribute.graphs:
                yield from _graph_nodes(graph.node)
