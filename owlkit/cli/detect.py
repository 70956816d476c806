"""``owlkit detect``: annotated pictures and one JSON file from images and words."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from owlkit.cli.files import (
    check_nothing_is_overwritten,
    find_sources,
    picture_names,
    write_json,
    written_whole,
)
from owlkit.detections import Detections
from owlkit.errors import ImageError, QueryError
from owlkit.images import describe_source, load_image
from owlkit.postprocess import Selection
from owlkit.prompts import TEMPLATES
from owlkit.visualize import draw_detections, load_font

if TYPE_CHECKING:
    from owlkit.predictor import Predictor

SUMMARY = "find words in images; write annotated pictures and one JSON file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder or URL")
    parser.add_argument("--queries", required=True, help='what to find: "cat, remote control"')
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--threshold", type=float, default=0.1, help="least score (default 0.1)")
    parser.add_argument("--nms-iou", type=float, default=0.5, help="overlap that duplicates exceed")
    parser.add_argument("--top-k", type=int, default=300, help="most boxes per image (default 300)")
    parser.add_argument("--templates", choices=sorted(TEMPLATES), default="none")
    parser.add_argument("--font", type=Path, help="font file for the names in the pictures")
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32"
    )


def run(options: argparse.Namespace) -> int:
    """Detects, image by image; one that fails is reported and the others go on.

    Returns:
        0, or 1 if an image could not be read or a picture not be written.

    Raises:
        ImageError: If there are no images, or a result would replace one of them.
        QueryError: If the words or an option cannot be used.
        DetectionsError: If the font cannot be read.
    """
    # Whatever can be found wrong is, before a large model is loaded.
    queries = _checked_queries(options)
    sources = find_sources(options.images, options.out)
    pictures = {source: options.out / name for source, name in picture_names(sources).items()}
    results = options.out / "detections.json"
    check_nothing_is_overwritten(sources, [results, *pictures.values()])
    predictor = _load(options)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        skipped = sum(
            not _answer(predictor, queries, source, picture, found=found, options=options)
            for source, picture in pictures.items()
        )
    finally:
        # Also when it is interrupted: what was found so far is kept.
        write_json(results, found)
    print(f"{len(found)} images, {skipped} skipped: {options.out}")
    return 1 if skipped else 0


def _answer(
    predictor: "Predictor",
    queries: Sequence[str],
    source: str,
    picture: Path,
    *,
    found: dict[str, list[dict[str, Any]]],
    options: argparse.Namespace,
) -> bool:
    """Detects in one image, notes what was found and draws it; returns whether all went well."""
    try:
        image = load_image(source)
        detections = _detect(predictor, image, queries, options)
        found[source] = detections.to_list()
        print(f"{describe_source(source)}: {_summary(detections)}")
        _save_picture(picture, draw_detections(image, detections, font=options.font))
    except (ImageError, OSError, ValueError) as error:
        _report_skipped(source, error)
        return False
    return True


def _checked_queries(options: argparse.Namespace) -> list[str]:
    """The words to look for; raises what these or other options deserve."""
    queries = [query.strip() for query in options.queries.split(",") if query.strip()]
    if not queries:
        raise QueryError(f"--queries: expected words, found {options.queries!r}")
    Selection(threshold=options.threshold, nms_iou=options.nms_iou, top_k=options.top_k)
    load_font(options.font, size=12)
    return queries


def _load(options: argparse.Namespace) -> "Predictor":
    from owlkit.predictor import Predictor

    return Predictor.from_pretrained(
        options.model, device=options.device, precision=options.precision
    )


def _detect(
    predictor: "Predictor",
    image: NDArray[np.uint8],
    queries: Sequence[str],
    options: argparse.Namespace,
) -> Detections:
    return predictor.detect(
        image,
        queries,
        threshold=options.threshold,
        nms_iou=options.nms_iou,
        top_k=options.top_k,
        templates=options.templates,
    )


def _save_picture(path: Path, picture: Image) -> None:
    """Writes a JPEG; raises OSError or ValueError where it is beyond the limits of that format."""
    with written_whole(path) as scratch:
        picture.save(scratch, format="JPEG")


def _report_skipped(source: str, error: Exception) -> None:
    """Says which source goes without its picture, and why."""
    name = describe_source(source)
    print(f"skipped {name}: {str(error).removeprefix(f'{name}: ')}", file=sys.stderr)


def _summary(detections: Detections) -> str:
    counts = {name: detections.names.count(name) for name in dict.fromkeys(detections.names)}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing found"
