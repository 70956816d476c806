"""``owlkit find``: what in a folder of images looks like a box, or fits words."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from owlkit.cli.files import find_sources, prepare_file, prepare_folder, write_json
from owlkit.cli.model_options import add_model_arguments, model_options
from owlkit.cli.progress import Show, progress_bar
from owlkit.cli.query_option import QUERIES_HELP, TEMPLATES_HELP, read_queries
from owlkit.errors import ConfigError, ImageError, QueryError
from owlkit.file_stamp import Stamp, file_stamp
from owlkit.heatmaps import sheet
from owlkit.images import load_image
from owlkit.prompts import TEMPLATES
from owlkit.queries import QuerySet
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from owlkit.backend import PatchArrays
    from owlkit.patch_index import PatchHit, PatchIndex, PatchIndexChanges
    from owlkit.predictor import Predictor

SUMMARY = "find what looks like a box, or fits words, in a folder of images"

_INDEX = ".owlkit-patches"
_LIKE = "like"
_SHEET_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
# Of the sheet: side of a picture in pixels, how much wider than the box it looks, and its frame.
_CELL = 240
_SURROUNDINGS = 2.5
_FRAME = (255, 40, 40)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="its images, at any depth")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--like", help="a picture (path or URL) that shows what to look for")
    query.add_argument("--queries", help=QUERIES_HELP)
    parser.add_argument(
        "--box", help="where --like shows it: x0,y0,x1,y1 in pixels (default: what stands out)"
    )
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument(
        "--templates", choices=sorted(TEMPLATES), default="none", help=TEMPLATES_HELP
    )
    parser.add_argument(
        "--index", type=Path, help=f"folder that keeps the patches (default FOLDER/{_INDEX})"
    )
    parser.add_argument("--top", type=int, default=50, help="how many to show (default 50)")
    parser.add_argument("--per-image", type=int, default=1, help="most of one image (default 1)")
    parser.add_argument("--threshold", type=float, help="least score (default: none)")
    parser.add_argument(
        "--patches-per-image",
        type=int,
        help="keep only so many patches of an image, by objectness (default: all, or as the index)",
    )
    parser.add_argument("--json", type=Path, help="file for paths, boxes and scores")
    parser.add_argument("--out", type=Path, help="picture file for a sheet of what was found")
    parser.add_argument("--batch-size", type=int, default=8, help="images per pass (default 8)")
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Brings the index up to date, searches it, prints and writes; returns 0.

    Raises:
        ConfigError: If an option cannot be used, or results cannot be written.
        ImageError: If there are no images, or the one to look like cannot be read.
        QueryError: If the box, the words or the query file cannot be used.
        DatasetError: If the index is damaged or of another model.
        CheckpointError: If the model cannot be loaded.
    """
    # Whatever can be found wrong is, before a large model is loaded.
    queries = _checked_queries(options)
    index_folder = options.index or options.folder / _INDEX
    sources = _checked_sources(options, index_folder)
    from owlkit.predictor import Predictor

    predictor = Predictor.from_pretrained(
        options.model,
        batch_size=options.batch_size,
        **model_options(options),
    )
    # First, because it is quick and may fail.
    predictor.embed(queries)
    chosen = _chosen_box(predictor, queries, options)
    index, unreadable = _updated_index(predictor, index_folder, sources, options)
    hits = search_index(
        index,
        predictor,
        queries,
        top=options.top,
        per_image=options.per_image,
        threshold=options.threshold,
    )
    for hit in hits:
        box = ",".join(f"{number:.0f}" for number in hit.box)
        name = "" if options.like else f"  {queries.names[hit.query]}"
        print(f"{hit.score:.4f}  {options.folder / hit.path}  {box}{name}")
    if not hits:
        unwritten = f"; {options.out} is not written" if options.out else ""
        print(f"nothing found{unwritten}", file=sys.stderr)
    if options.json:
        found = {
            "like": chosen,
            "hits": _as_dicts(hits, queries, options),
            "unreadable": unreadable,
        }
        write_json(options.json, found)
    if options.out and hits:
        drawn = draw_hits([(options.folder / hit.path, hit.box, hit.score) for hit in hits])
        with written_whole(options.out) as scratch:
            drawn.save(scratch, format=_SHEET_FORMATS[options.out.suffix.lower()])
    return 0


def draw_hits(hits: Sequence[tuple[Path, Sequence[float], float]]) -> Image.Image:
    """Each box with its surroundings, under its score and file name.

    Args:
        hits: One or more image files, each with a box, xyxy in pixels, and a score.

    Raises:
        ImageError: If an image cannot be read.
    """
    pictures = [close_up(load_image(path), box) for path, box, _ in hits]
    titles = [f"{score:.2f} {_shortened(path.name)}" for path, _, score in hits]
    return sheet(pictures, titles)


def close_up(image: NDArray[np.uint8], box: Sequence[float]) -> Image.Image:
    """A square around a box, which is framed; grey where the image ends.

    Args:
        image: RGB, uint8 [h, w, 3].
        box: xyxy in pixels of the image.
    """
    x0, y0, x1, y1 = box
    side = max(1.0, _SURROUNDINGS * max(x1 - x0, y1 - y0))
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    scale = _CELL / side
    height, width = image.shape[:2]
    part = [max(0, int(left)), max(0, int(top))]
    part += [min(width, int(left + side) + 1), min(height, int(top + side) + 1)]
    crop = Image.fromarray(image[part[1] : part[3], part[0] : part[2]])
    size = [max(1, round(scale * length)) for length in crop.size]
    shown = Image.new("RGB", (_CELL, _CELL), (128, 128, 128))
    place = round((part[0] - left) * scale), round((part[1] - top) * scale)
    shown.paste(crop.resize((size[0], size[1]), Image.Resampling.BICUBIC), place)
    frame = [(number - start) * scale for number, start in zip(box, (left, top) * 2, strict=True)]
    ImageDraw.Draw(shown).rectangle(frame, outline=_FRAME, width=2)
    return shown


def _shortened(name: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return text if len(text) <= 20 else f"{text[:8]}…{text[-11:]}"


def _checked_queries(options: argparse.Namespace) -> QuerySet:
    """What to look for."""
    if options.like is None:
        if options.box is not None:
            raise QueryError("--box: expected together with --like")
        queries = read_queries(options.queries, options.templates)
        parts = [one.name for one in queries.classes if one.parent is not None]
        if parts:
            raise QueryError(f"--queries: expected no parts of other things, found {parts[0]!r}")
        return queries
    queries = QuerySet()
    queries.add_example(_LIKE, options.like, None if options.box is None else [_box(options.box)])
    return queries


def _box(text: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise QueryError(f"--box: expected x0,y0,x1,y1 in pixels, found {text!r}")
    return numbers


def _checked_sources(options: argparse.Namespace, index_folder: Path) -> list[Path]:
    """The images; finds what is wrong with the options, and makes the folders of results."""
    for name in ("top", "per_image", "batch_size"):
        if getattr(options, name) < 1:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: expected at least 1, found {getattr(options, name)}")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold: expected a number in [0, 1], found {options.threshold}")
    if not options.folder.is_dir():
        raise ImageError(f"{options.folder}: expected a folder of images, found none")
    found = [Path(source) for source in find_sources([str(options.folder)], index_folder)]
    # A sheet of an earlier search is no image to find.
    sheets = {options.out.resolve()} if options.out else set()
    sources = [path for path in found if path.resolve() not in sheets]
    if not sources:
        raise ImageError(f"{options.folder}: expected images, found {options.out} alone")
    if options.out and options.out.suffix.lower() not in _SHEET_FORMATS:
        known = ", ".join(_SHEET_FORMATS)
        raise ConfigError(f"--out: expected a name that ends in {known}; found {options.out}")
    for option, path in (("--json", options.json), ("--out", options.out)):
        if path is not None:
            prepare_file(path, option=option)
    prepare_folder(index_folder, option="--index")
    return sources


def _chosen_box(
    predictor: "Predictor", queries: QuerySet, options: argparse.Namespace
) -> dict[str, Any] | None:
    """Says what was taken for the object, so that a person can see it; None for words."""
    if options.like is None:
        return None
    (chosen,) = predictor.chosen(queries, _LIKE)
    box = ",".join(f"{number:.0f}" for number in chosen.box)
    agreement = f" (IoU {chosen.iou:.2f})" if options.box else ""
    print(f"looking for what is at {box} of {options.like}{agreement}", file=sys.stderr)
    return {"path": options.like, "box": list(chosen.box), "iou": chosen.iou}


def _updated_index(
    predictor: "Predictor",
    index_folder: Path,
    sources: Sequence[Path],
    options: argparse.Namespace,
) -> tuple["PatchIndex", list[str]]:
    """The index of the folder, and the files that cannot be read."""
    with progress_bar("index", "image") as show:
        index, changes = update_index(
            index_folder,
            predictor,
            {path.relative_to(options.folder).as_posix(): path for path in sources},
            patches_per_image=options.patches_per_image,
            show=show,
        )
    print(
        f"index: {changes.kept} images kept, {changes.encoded} encoded, {changes.dropped} dropped",
        file=sys.stderr,
    )
    for path in changes.unreadable:
        print(f"skipped {path}: cannot be read", file=sys.stderr)
    return index, list(changes.unreadable)


def update_index(
    folder: Path,
    predictor: "Predictor",
    images: Mapping[str, Path],
    *,
    patches_per_image: int | None = None,
    stamp: Callable[[Path], Stamp | None] = file_stamp,
    show: Show = lambda done, total: None,
) -> tuple["PatchIndex", "PatchIndexChanges"]:
    """Makes an index of the patches that a predictor sees in images, or brings it up to date.

    Args:
        folder: Of the index.
        predictor: Encodes what is new, in batches of its size.
        images: Files by their names in the index.
        patches_per_image: See :func:`owlkit.patch_index.update_patch_index`.
        stamp: Also described there.
        show: Called with the number of images done, and of those to do.

    Raises:
        DatasetError: If the index is damaged or of another model or other images.
        ConfigError: If the folder cannot be made.
        QueryError: If patches are to be chosen, and the model does not predict objectness.
    """
    from owlkit.patch_index import update_patch_index

    def encode(
        images: list[NDArray[np.uint8]],
    ) -> list[tuple["PatchArrays", NDArray[np.float32]]]:
        return [
            (predictor.patches(scene), scene.boxes) for scene in predictor.encode(tuple(images))
        ]

    return update_patch_index(
        folder,
        images,
        encode,
        identity=f"{predictor.backend.identity} {predictor.backend.precision}",
        batch_size=predictor.batch_size,
        patches_per_image=patches_per_image,
        stamp=stamp,
        show=show,
    )


def search_index(
    index: "PatchIndex",
    predictor: "Predictor",
    queries: QuerySet,
    *,
    top: int,
    per_image: int,
    threshold: float | None = None,
) -> list["PatchHit"]:
    """The patches of an index that answer a query set best, by the scores of its model.

    Args:
        index: Made with the same model.
        predictor: The model; encodes queries that it does not know yet.
        queries: None is part of another.
        top: At most so many hits.
        per_image: At most so many of one image.
        threshold: Scores must be above this; None sets no limit.

    Raises:
        QueryError: If an image of an example is not there, or an option cannot be used.
        DatasetError: If the index holds NaN.
    """
    identity, calibration = predictor.backend.identity, predictor.backend.calibration
    return index.search(
        queries.compiled(predictor.embed(queries).table(identity)),
        top=top,
        per_image=per_image,
        threshold=threshold,
        calibrations=[one.calibration or calibration for one in queries.classes],
    )


def _as_dicts(
    hits: Sequence["PatchHit"], queries: QuerySet, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The hits for JSON: path, box, score, logit and, for words, the label."""
    found = []
    for hit in hits:
        entry = {**asdict(hit), "path": str(options.folder / hit.path), "box": list(hit.box)}
        del entry["query"]
        found.append(entry if options.like else {**entry, "label": queries.names[hit.query]})
    return found
