"""Writes a detector as ONNX graphs, in a folder that runs without torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from owlkit.encoders.hub import MANIFEST
from owlkit.export.card import model_card
from owlkit.export.detector_graphs import (
    Size,
    at_size,
    chosen_sizes,
    write_attention_graph,
    write_image_graph,
    write_text_graph,
)
from owlkit.export.detector_parity import (
    check_attention_graph,
    check_image_graph,
    check_text_graph,
    random_queries,
)
from owlkit.export.folder import (
    ATTENTION_GRAPH,
    TEXT_GRAPH,
    TOKENIZER,
    detector_manifest,
    image_graph_name,
    read_manifest,
    rehash,
    write_manifest,
)
from owlkit.export.parity import Parity, Tolerance
from owlkit.export.tokenizer import write_tokenizer
from owlkit.export.wrappers import TEXT_OUTPUT, TextGraph
from owlkit.images import ImageSource
from owlkit.models.checkpoint import replaced_folder
from owlkit.models.detector import OwlDetector

Step = Callable[[Path], dict[str, Any]]
"""Rewrites or adds graphs of a complete exported folder, the manifest's entries included (hashes
are brought up to date afterwards), and returns what it measured, by name."""


@dataclass(frozen=True)
class ExportReport:
    """What an export has written and measured.

    Attributes:
        folder: The exported folder.
        parity: Differences between the float32 graphs and the model.
        measured: What further steps have measured, by name.
    """

    folder: Path
    parity: Parity
    measured: dict[str, Any] = field(default_factory=dict)


def export_detector(
    detector: OwlDetector,
    folder: str | Path,
    *,
    sizes: Sequence[Size] | None = None,
    tolerance: Tolerance | None = None,
    photographs: Sequence[ImageSource] = (),
    attention: bool = False,
    steps: Sequence[Step] = (),
) -> ExportReport:
    """Writes image and text graph, tokenizer and preprocessing, and proves that they are right.

    Every graph is run by ONNX Runtime on inputs that the export has not seen - other batches,
    numbers of queries and lengths than those traced - and compared with the model in float32.

    Args:
        detector: In float32 on the CPU; it is switched to evaluation mode.
        folder: A new folder, or one that holds an owlkit model, which is replaced once all went
            well.
        sizes: (H, W) of the images in pixels, one graph for each, the default first; None for the
            model's own.
        tolerance: Largest differences that are accepted; None for the usual ones.
        photographs: Compared beside noise.
        attention: Write a graph of attention maps too, for the default size.
        steps: What is done to the folder after that, in order.

    Returns:
        What was measured.

    Raises:
        ConfigError: If a size is named twice, or the model cannot be expressed in ONNX.
        InputSizeError: If the model cannot take images of one of the sizes.
        TokenError: If attention maps are asked for, and the image tower is no vision transformer.
        CheckpointError: If the graphs differ from the model, with the table, or the folder holds
            something else; nothing is left behind.
    """
    chosen = chosen_sizes(detector, sizes)
    detector.eval()
    with replaced_folder(Path(folder), marker=MANIFEST) as new:
        limits = tolerance or Tolerance()
        parity = _write_graphs(detector, new, chosen, limits, photographs, attention=attention)
        parity.check(folder)
        manifest = detector_manifest(detector, new, chosen)
        manifest["measured"] = {"parity": parity.to_dict()}
        write_manifest(new, manifest)
        measured: dict[str, Any] = {}
        for step in steps:
            found = step(new)
            manifest = read_manifest(new)
            manifest["measured"] |= found
            rehash(new, manifest)
            write_manifest(new, manifest)
            measured |= found
        (new / "README.md").write_text(model_card(manifest, parity), encoding="utf-8")
    return ExportReport(Path(folder), parity, measured)


def _write_graphs(
    detector: OwlDetector,
    folder: Path,
    sizes: Sequence[Size],
    tolerance: Tolerance,
    photographs: Sequence[ImageSource],
    *,
    attention: bool,
) -> Parity:
    """Writes the graphs and the tokenizer, and compares them."""
    # Before the long work: what cannot be done is said at once.
    resized = [at_size(detector, size) for size in sizes]
    parity, queries = Parity(), random_queries(detector.text.width)
    if attention:
        path = folder / ATTENTION_GRAPH
        write_attention_graph(resized[0], path)
        parity += check_attention_graph(detector, path, sizes[0], tolerance, photographs)
    if detector.tokenizer is not None:
        full = detector.text.needs_full_length
        write_tokenizer(detector.tokenizer, folder / TOKENIZER, pad_to_full=full)
        write_text_graph(
            TextGraph(detector), detector.text, folder / TEXT_GRAPH, output=TEXT_OUTPUT
        )
        compared, queries = check_text_graph(detector, folder / TEXT_GRAPH, tolerance)
        parity += compared
    for size, model in zip(sizes, resized, strict=True):
        path = folder / image_graph_name(size, default=sizes[0])
        write_image_graph(model, path)
        parity += check_image_graph(detector, path, size, queries, tolerance, photographs)
    return parity
