"""The description of an exported folder, ``owlkit.json``, and the files it vouches for."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owlkit.calibration import Calibration
from owlkit.errors import CheckpointError
from owlkit.geometry import Preprocessing
from owlkit.json_file import read_json

MANIFEST = "owlkit.json"
FORMAT_VERSION = 1
DETECTOR = "onnx_detector"
DUAL_ENCODER = "onnx_dual_encoder"

_KINDS = (DETECTOR, DUAL_ENCODER)
# Hexadecimal digits of a SHA-256.
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class GraphFile:
    """One graph of an exported folder.

    Attributes:
        path: The file.
        sha256: Of the file's content, hexadecimal.
        size: (H, W) of the images that it takes, in pixels; None for graphs of texts.
        data: The file beside it with the weights of a graph above 2 GB, and its SHA-256.
    """

    path: Path
    sha256: str
    size: tuple[int, int] | None = None
    data: tuple[Path, str] | None = None

    def check(self) -> None:
        """Makes sure that the files are those that were written; reads them once.

        Raises:
            CheckpointError: If one is missing or was altered.
        """
        files = [(self.path, self.sha256), *([self.data] if self.data else [])]
        for path, expected in files:
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
            if found != expected:
                raise CheckpointError(
                    f"{path}: expected the file that {MANIFEST} describes (SHA-256 "
                    f"{expected[:12]}...), found another one ({found[:12]}...): it is damaged, or "
                    "of another export; export the model again"
                )


@dataclass(frozen=True)
class ExportedModel:
    """What ``owlkit.json`` of an exported folder says.

    Attributes:
        folder: Where it lies.
        kind: ``onnx_detector`` or ``onnx_dual_encoder``.
        identity: Of the model that was exported, see :class:`owlkit.backend.Backend`; empty for
            encoders.
        preprocessing: How images become the input of the first image encoder.
        calibration: What turns logits into probabilities; None for the plain sigmoid.
        threshold: Where scores are best cut, in [0, 1]; None if nobody measured it.
        image_encoders: One graph for each size of images, the default first.
        text_encoder: None if only images can be encoded.
        attention: Gives attention maps, of images of one size; None if they were not exported.
        embed_width: E.
        objectness: Whether there is an objectness head.
        manifest: All that the file holds.
    """

    folder: Path
    kind: str
    identity: str
    preprocessing: Preprocessing
    calibration: Calibration | None
    threshold: float | None
    image_encoders: tuple[GraphFile, ...]
    text_encoder: GraphFile | None
    attention: GraphFile | None
    embed_width: int
    objectness: bool
    manifest: dict[str, Any]

    def image_encoder(self, size: tuple[int, int] | None) -> GraphFile:
        """The image encoder of a size (H, W) in pixels; None for the default.

        Raises:
            CheckpointError: If that size was not exported.
        """
        for graph in self.image_encoders:
            if size in (None, graph.size):
                return graph
        sizes = ", ".join(str(graph.size) for graph in self.image_encoders)
        raise CheckpointError(f"{self.folder}: expected one of the sizes {sizes}, found {size}")


def is_exported(folder: str | Path) -> bool:
    """Whether a path is a folder that ``owlkit export`` has written, whole or damaged."""
    path = Path(folder).expanduser()
    try:
        return read_json(path / MANIFEST).get("kind") in _KINDS
    except CheckpointError:
        return any(path.glob("*.onnx")) if path.is_dir() else False


def read_export(folder: str | Path, *, kind: str = DETECTOR) -> ExportedModel:
    """Reads and checks the description of an exported folder; its graphs are not read yet.

    Args:
        folder: The folder.
        kind: The kind of model that is welcome.

    Raises:
        CheckpointError: If it is missing, damaged, of a newer format, or another kind of model.
    """
    path = Path(folder).expanduser()
    where = path / MANIFEST
    manifest = read_json(where)
    version = manifest.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: format_version: expected 1 to {FORMAT_VERSION}, found {version!r}; a newer "
            "owlkit may have written it"
        )
    if manifest.get("kind") != kind:
        raise CheckpointError(f"{where}: kind: expected {kind}, found {manifest.get('kind')!r}")
    fields = _Fields(where, manifest)
    graphs = _Fields(where, fields.take("graphs", dict))
    encoders = tuple(
        _graph(path, where, entry, sized=True) for entry in graphs.take("image_encoder", list)
    )
    if not encoders:
        raise CheckpointError(f"{where}: graphs: expected an image_encoder, found none")
    texts = graphs.take("text_encoder", dict, optional=True)
    attention = graphs.take("attention", dict, optional=True)
    preprocessing = Preprocessing.from_dict(fields.take("preprocessing", dict))
    if encoders[0].size != preprocessing.size:
        raise CheckpointError(
            f"{where}: expected the first image_encoder for images of {preprocessing.size}, as "
            f"preprocessing says, found {encoders[0].size}"
        )
    calibration = fields.take("calibration", dict, optional=True)
    return ExportedModel(
        folder=path,
        kind=kind,
        identity=fields.take("identity", str) if kind == DETECTOR else "",
        preprocessing=preprocessing,
        calibration=None if calibration is None else Calibration.from_dict(calibration),
        threshold=fields.fraction("threshold"),
        image_encoders=encoders,
        text_encoder=None if texts is None else _graph(path, where, texts),
        attention=None if attention is None else _graph(path, where, attention, sized=True),
        embed_width=fields.take("embed_width", int),
        objectness=fields.take("objectness", bool) if kind == DETECTOR else False,
        manifest=manifest,
    )


class _Fields:
    """Takes values out of a JSON object and says where one is wrong."""

    def __init__(self, where: Path, content: dict[str, Any]) -> None:
        self._where = where
        self._content = content

    def take(self, key: str, kind: type, *, optional: bool = False) -> Any:
        """The value of a key; None for an optional one that is not there."""
        value = self._content.get(key)
        if value is None and optional:
            return None
        if type(value) is not kind:
            raise CheckpointError(
                f"{self._where}: {key}: expected {kind.__name__}, found {value!r}"
            )
        return value

    def fraction(self, key: str) -> float | None:
        """An optional number in [0, 1]."""
        value = self._content.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise CheckpointError(
                f"{self._where}: {key}: expected a number in [0, 1], found {value!r}"
            )
        return float(value)


def _graph(folder: Path, where: Path, entry: Any, *, sized: bool = False) -> GraphFile:
    path, digest = _file(folder, where, entry)
    return GraphFile(
        path,
        digest,
        size=_size(where, entry.get("size")) if sized else None,
        data=_file(folder, where, entry["data"]) if "data" in entry else None,
    )


def _file(folder: Path, where: Path, entry: Any) -> tuple[Path, str]:
    """A file beside the description, and its digest."""
    name, digest = (
        entry.get(key) if isinstance(entry, dict) else None for key in ("file", "sha256")
    )
    if not isinstance(name, str) or Path(name).name != name:
        raise CheckpointError(f"{where}: graphs: expected a file of this folder, found {name!r}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise CheckpointError(f"{where}: graphs: {name}: expected a sha256, found {digest!r}")
    return folder / name, digest


def _size(where: Path, size: Any) -> tuple[int, int]:
    is_pair = isinstance(size, list) and len(size) == 2
    if not is_pair or not all(type(side) is int and side > 0 for side in size):
        raise CheckpointError(f"{where}: graphs: expected a size [H, W] in pixels, found {size!r}")
    return size[0], size[1]
