"""Exported folders in 8 bits, and what that costs.

The image encoders become int8 (see :mod:`owlkit.export.quantized_graph`); layers that lose most
stay in float32, by measurement on images and, where there is a data set, by AP. The text encoder
stays in float32: it runs once for a set of queries, and its vectors are shared with the float32
model. So does the graph of attention maps, which no AP would judge.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx

from owlkit.errors import ConfigError
from owlkit.export.folder import read_manifest, rehash, write_manifest
from owlkit.export.graphs import STANDARD, check_graph
from owlkit.export.model_file import load_model, save_model
from owlkit.export.optimize import FUSED_DOMAINS
from owlkit.export.parity import Array
from owlkit.export.quantized_graph import Range, find_layers, quantize_layers
from owlkit.export.ranges import measure_ranges
from owlkit.export.sensitivity import Sensitivity
from owlkit.geometry import Preprocessing
from owlkit.images import ImageSource, load_image

_SEED = 20


class Measure(Protocol):
    """Measures a folder on a data set, as :class:`owlkit.evaluation.exported.ExportedAccuracy`."""

    def __call__(self, folder: Path) -> Mapping[str, float]:
        """Numbers in [0, 1] by name, among them ``AP``."""


@dataclass(frozen=True)
class Int8Settings:
    """How image encoders become int8, and how much they may lose.

    Attributes:
        mode: ``dynamic`` measures the range of what a layer reads in each run, over the whole
            batch, so that a result depends a little on the other images of its batch; ``static``
            fixes them on calibration images, and takes convolutions, too.
        max_error: Largest error of the outputs, as a share of how much they vary, see
            :func:`owlkit.export.sensitivity.output_error`.
        max_ap_loss: Most that AP may fall, in points (hundredths), where it is measured.
        compared: How many images the error is measured on.

    Raises:
        ConfigError: If a value is out of its range.
    """

    mode: Literal["dynamic", "static"] = "dynamic"
    max_error: float = 0.05
    max_ap_loss: float = 1.0
    compared: int = 8

    def __post_init__(self) -> None:
        if self.mode not in ("dynamic", "static"):
            raise ConfigError(f"int8: expected dynamic or static, found {self.mode!r}")
        for name in ("max_error", "max_ap_loss", "compared"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, found {getattr(self, name)}")


def quantize_folder(
    folder: Path,
    settings: Int8Settings,
    *,
    images: Sequence[ImageSource] = (),
    measure: Measure | None = None,
) -> dict[str, Any]:
    """Turns the image encoders of a complete exported folder to int8.

    Args:
        folder: With float32 graphs; its manifest is kept complete.
        settings: Mode and limits.
        images: For ``static``, a few hundred like those to come, which ranges are measured on. For
            both, the first of them are what errors are measured on; without any that is noise.
        measure: Of a folder on a data set; None does without.

    Returns:
        ``int8``: the mode, the error and what it was measured on, how many layers are int8, which
        ones stay float32, sizes of the files in bytes; ``accuracy``: before and after, by
        precision.

    Raises:
        ConfigError: If there are no images for ``static``, a graph is not float32, or no layer can
            be int8 within the limits.
        ImageError: If an image cannot be read.
    """
    manifest = read_manifest(folder)
    check_float32(folder, manifest)
    if settings.mode == "static" and not images:
        raise ConfigError("int8 static: expected images to measure ranges on, found none")
    preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    # They differ in nothing but the size of their images: what holds for the first holds for all.
    encoders = [
        _Encoder(
            folder / entry["file"],
            replace(preprocessing, size=tuple(entry["size"])),
            images,
            settings,
        )
        for entry in manifest["graphs"]["image_encoder"]
    ]
    layers, sensitivity = encoders[0].layers, encoders[0].sensitivity()
    accuracy: dict[str, Mapping[str, float]] = {}
    if measure is not None:
        accuracy["float32"] = measure(folder)
    bytes_before = _bytes(encoders)
    choice = sensitivity.within(settings.max_error)
    while True:
        if len(choice.kept) == len(layers):
            raise ConfigError(
                f"int8 {settings.mode}: expected layers that can be int8 within an error of "
                f"{settings.max_error:g} and {settings.max_ap_loss:g} points of AP, found none of "
                f"{len(layers)}"
            )
        for encoder in encoders:
            encoder.write(choice.kept)
        manifest["precision"] = "int8"
        rehash(folder, manifest)
        write_manifest(folder, manifest)
        if measure is None:
            break
        accuracy["int8"] = measure(folder)
        if 100 * (accuracy["float32"]["AP"] - accuracy["int8"]["AP"]) <= settings.max_ap_loss:
            break
        choice = sensitivity.without(min(len(layers), max(1, 2 * len(choice.kept))))
    report = {
        "mode": settings.mode,
        "error": choice.error,
        "measured_on": f"{encoders[0].compared} {'photographs' if images else 'images of noise'}",
        "int8_layers": len(layers) - len(choice.kept),
        "float32_layers": [layers[place].module for place in choice.kept],
        "bytes": {"float32": bytes_before, "int8": _bytes(encoders)},
    }
    return {"int8": report} | ({"accuracy": accuracy} if accuracy else {})


def check_float32(folder: Path, manifest: dict[str, Any]) -> None:
    """Makes sure that the graphs of a folder can be given another precision.

    Raises:
        ConfigError: Unless they are float32, and none was made of another one.
    """
    if manifest["precision"] != "float32":
        raise ConfigError(f"{folder}: expected float32 graphs, found {manifest['precision']}")
    if "detector" in manifest["graphs"]:
        raise ConfigError(
            f"{folder}: expected image and text encoders, found the fused graph, too; it is made "
            "of the image encoder, so write it afterwards"
        )


def _bytes(encoders: "Sequence[_Encoder]") -> int:
    """Size of all graphs with their weights."""
    files = {
        path
        for encoder in encoders
        for path in (encoder.path, encoder.path.with_name(f"{encoder.path.name}.data"))
    }
    return sum(path.stat().st_size for path in files if path.is_file())


class _Encoder:
    """A float32 image encoder, read before its file is overwritten, and the images it sees."""

    def __init__(
        self,
        path: Path,
        preprocessing: Preprocessing,
        images: Sequence[ImageSource],
        settings: Int8Settings,
    ) -> None:
        self.path = path
        self._preprocessing = preprocessing
        self._images = images
        self.compared = min(settings.compared, len(images)) if images else settings.compared
        self._model = load_model(path)
        is_static = settings.mode == "static"
        self.layers = find_layers(self._model, convolutions=is_static)
        self._ranges: dict[str, Range] | None = None
        if is_static:
            self._ranges = measure_ranges(self._model, self.layers, self._inputs())

    def _inputs(self) -> Iterator[dict[str, Array]]:
        """One image a run; noise without end if there are none."""
        for image in self._images:
            yield {"pixels": self._preprocessing(load_image(image))[0][None]}
        generator = np.random.default_rng(_SEED)
        while not self._images:
            shape = (1, 3, *self._preprocessing.size)
            yield {"pixels": generator.standard_normal(shape, dtype=np.float32)}

    def sensitivity(self) -> Sensitivity:
        inputs = list(islice(self._inputs(), self.compared))
        return Sensitivity(self._model, self._build, len(self.layers), inputs)

    def _build(self, places: Sequence[int]) -> onnx.ModelProto:
        return quantize_layers(self._model, [self.layers[place] for place in places], self._ranges)

    def write(self, kept: Sequence[int]) -> None:
        """Overwrites the file with int8 in all layers but those of these places."""
        places = [place for place in range(len(self.layers)) if place not in kept]
        save_model(self._build(places), self.path)
        check_graph(self.path, domains=(*STANDARD, *FUSED_DOMAINS))
