"""``owlkit detect``: annotated pictures and one JSON file from images and words."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from owlkit.detections import Detections
from owlkit.errors import ImageError, QueryError
from owlkit.prompts import TEMPLATES

SUMMARY = "find words in images; write annotated pictures and one JSON file"

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


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
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32"
    )


def run(options: argparse.Namespace) -> int:
    """Detects, image by image; an unreadable image is reported and the others go on.

    Returns:
        0, or 1 if an image could not be read.
    """
    from owlkit.predictor import Predictor

    queries = [query.strip() for query in options.queries.split(",") if query.strip()]
    if not queries:
        raise QueryError(f"--queries: expected words, found {options.queries!r}")
    sources = list(_expand(options.images))
    options.out.mkdir(parents=True, exist_ok=True)
    predictor = Predictor.from_pretrained(
        options.model, device=options.device, precision=options.precision
    )
    found: dict[str, list[dict[str, Any]]] = {}
    unreadable = 0
    pictures = _picture_names(sources)
    for source in sources:
        try:
            detections = predictor.detect(
                source,
                queries,
                threshold=options.threshold,
                nms_iou=options.nms_iou,
                top_k=options.top_k,
                templates=options.templates,
            )
        except ImageError as error:
            print(f"skipped: {error}", file=sys.stderr)
            unreadable += 1
            continue
        found[source] = detections.to_list()
        detections.plot().save(options.out / pictures[source])
        print(f"{source}: {_summary(detections)}")
    _write_json(options.out / "detections.json", found)
    print(f"{len(found)} images, {unreadable} unreadable: {options.out}")
    return 1 if unreadable else 0


def _expand(images: Iterable[str]) -> Iterable[str]:
    """Files and URLs as they are; for a folder, the images in it, at any depth."""
    for image in images:
        if Path(image).is_dir():
            yield from sorted(
                str(path)
                for path in Path(image).rglob("*")
                if path.suffix.lower() in _IMAGE_SUFFIXES
            )
        else:
            yield image


def _picture_names(sources: Iterable[str]) -> dict[str, str]:
    """A file name for each picture; images of one name from several folders get a number."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        stem = Path(source.split("?")[0]).stem or "image"
        name, number = f"{stem}.jpg", 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}.jpg"
        taken.add(name)
        names[source] = name
    return names


def _summary(detections: Detections) -> str:
    counts = {name: detections.names.count(name) for name in dict.fromkeys(detections.names)}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing found"


def _write_json(path: Path, content: Any) -> None:
    """Writes beside and renames, so that an interrupted run leaves no half file."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8"
    ) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
    os.replace(file.name, path)
