"""``owlkit search``: the images of a folder that fit a sentence or look like an image."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from owlkit.cli.files import find_sources, prepare_file, write_json
from owlkit.errors import ConfigError, ImageError
from owlkit.images import load_image
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from owlkit.evaluation.image_index import IndexChanges

SUMMARY = "rank the images of a folder by a sentence or by an image"

_INDEX = ".owlkit-index.safetensors"
# Of the sheet, in pixels.
_CELL = 240
_LINE = 18
_GAP = 8
_COLUMNS = 5
_SHEET_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="its images, at any depth")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--query", help='what to look for: "a dog in the snow"')
    query.add_argument("--image", help="what to look for: a picture (path or URL)")
    parser.add_argument("--model", required=True, help="folder or hub id; a CLIP for sentences")
    parser.add_argument(
        "--index", type=Path, help=f"file that keeps the vectors (default FOLDER/{_INDEX})"
    )
    parser.add_argument("--top", type=int, default=10, help="how many to show (default 10)")
    parser.add_argument("--json", type=Path, help="file for paths and similarities")
    parser.add_argument("--out", type=Path, help="picture file for a sheet of the best")
    parser.add_argument("--batch-size", type=int, default=32, help="images per pass (default 32)")
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")


def run(options: argparse.Namespace) -> int:
    """Brings the index up to date, ranks, prints and writes; returns 0.

    Raises:
        ConfigError: If an option cannot be used, or results cannot be written.
        ImageError: If there are no images, or the one to look for cannot be read.
        QueryError: If a sentence is asked of a model without a text tower.
        DatasetError: If the index is damaged or of another model.
        CheckpointError: If the model cannot be loaded.
    """
    index_file = options.index or options.folder / _INDEX
    sources = _checked_sources(options, index_file)
    # A picture that cannot be read is found out before a large model is loaded.
    example = None if options.image is None else load_image(options.image)

    from owlkit.evaluation.features import Encoder, load_encoder
    from owlkit.evaluation.image_index import update_index
    from owlkit.torch_backend import find_device

    device = find_device(options.device)
    model, preprocessing = load_encoder(options.model)
    encoder = Encoder(model.to(device), preprocessing=preprocessing, batch_size=options.batch_size)
    # First, because it is quick and may fail.
    query = encoder.image(example) if example is not None else encoder.texts([options.query])[0]
    index, changes = update_index(encoder, options.folder, sources, index_file)
    _say_changes(changes)
    best = index.rank(query, top=options.top)
    for path, score in best:
        print(f"{score:.4f}  {options.folder / path}")
    if options.json:
        results = [{"path": str(options.folder / path), "score": score} for path, score in best]
        found = {"results": results, "unreadable": list(changes.unreadable)}
        write_json(options.json, found)
    if options.out and best:
        sheet = draw_sheet([(options.folder / path, f"{score:.3f}") for path, score in best])
        with written_whole(options.out) as scratch:
            sheet.save(scratch, format=_SHEET_FORMATS[options.out.suffix.lower()])
    return 0


def draw_sheet(entries: Sequence[tuple[Path, str]]) -> Image.Image:
    """Pictures side by side, five a row, each above a line of text.

    Args:
        entries: One or more image files with their texts.

    Raises:
        ImageError: If a picture cannot be read.
    """
    columns = min(_COLUMNS, len(entries))
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (columns * _CELL, rows * (_CELL + _LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (path, text) in enumerate(entries):
        left, top = number % columns * _CELL, number // columns * (_CELL + _LINE)
        picture = _fitted(Image.fromarray(load_image(path)), _CELL - _GAP)
        # In the middle of the cell, above the text.
        x, y = ((_CELL - side) // 2 for side in picture.size)
        sheet.paste(picture, (left + x, top + y))
        draw.text((left + _GAP, top + _CELL), text, fill="black")
    return sheet


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """The picture with this longer side; of a thin strip at least one pixel is left."""
    scale = side / max(picture.size)
    width, height = (max(1, round(scale * length)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _checked_sources(options: argparse.Namespace, index_file: Path) -> list[Path]:
    """The images; finds what is wrong with the options, and makes the folders of results."""
    if options.top < 1:
        raise ConfigError(f"--top: expected at least 1, found {options.top}")
    if not options.folder.is_dir():
        raise ImageError(f"{options.folder}: expected a folder of images, found none")
    # A sheet of an earlier search is no image to find.
    sources = [
        Path(source) for source in find_sources([str(options.folder)], options.out or index_file)
    ]
    if options.out and options.out.suffix.lower() not in _SHEET_FORMATS:
        known = ", ".join(_SHEET_FORMATS)
        raise ConfigError(f"--out: expected a name that ends in {known}; found {options.out}")
    for option, path in (("--index", index_file), ("--json", options.json), ("--out", options.out)):
        if path is not None:
            prepare_file(path, option=option)
    return sources


def _say_changes(changes: "IndexChanges") -> None:
    """Says on the error stream what was done, so that the output holds results alone."""
    print(
        f"index: {changes.kept} images kept, {changes.encoded} encoded, {changes.dropped} dropped",
        file=sys.stderr,
    )
    for path in changes.unreadable:
        print(f"skipped {path}: cannot be read", file=sys.stderr)
