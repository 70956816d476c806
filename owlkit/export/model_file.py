"""ONNX models of any size as files."""

from pathlib import Path

import onnx

# Protocol buffers hold 2 GiB; names and shapes need their share.
_MOST_BYTES = 2**31 - 2**26


def load_model(path: Path) -> onnx.ModelProto:
    """Reads a model with all of its weights, also those in files beside it."""
    return onnx.load(str(path))


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model in place of whatever the file held; weights of 2 GB in ``<path>.data``.

    Args:
        model: Holds its weights itself; afterwards, if they are that large, no longer.
        path: The file.
    """
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    if model.ByteSize() < _MOST_BYTES:
        onnx.save(model, str(path))
    else:
        onnx.save(model, str(path), save_as_external_data=True, location=data.name)
