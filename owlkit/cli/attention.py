"""``owlkit attention``: where a vision transformer looks, drawn over photographs."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from owlkit.attention_map import AttentionMaps
from owlkit.cli.files import (
    check_nothing_is_overwritten,
    find_sources,
    picture_names,
    prepare_file,
    prepare_folder,
    write_json,
)
from owlkit.detections import Detections
from owlkit.errors import ConfigError, ImageError
from owlkit.heatmaps import outline, overlay, sheet
from owlkit.images import describe_source, load_image
from owlkit.visualize import draw_detections
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from owlkit.encoders.vision import VisionTower
    from owlkit.geometry import Preprocessing

SUMMARY = "draw where each head of a vision transformer looks in images"

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
# Longer side of one picture of a sheet, in pixels.
_SIDE = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder or URL")
    parser.add_argument("--model", required=True, help="folder or hub id of a vision transformer")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the sheets; of one image also a file"
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side in pixels of a square image, others get as many pixels (default: twice the "
        "model's own, at most 60 patches)",
    )
    parser.add_argument(
        "--mass",
        type=float,
        default=0.6,
        help="share of each map that the outlined cells hold (default 0.6)",
    )
    parser.add_argument(
        "--boxes", action="store_true", help="draw a box around each part of the mean's outline"
    )
    parser.add_argument("--smooth", action="store_true", help="interpolate between the patches")
    parser.add_argument("--json", type=Path, help="file for the boxes, by image")
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")


def run(options: argparse.Namespace) -> int:
    """Draws, image by image; one that fails is reported and the others go on.

    Returns:
        0, or 1 if an image could not be read or a picture not be written.

    Raises:
        ConfigError: If an option cannot be used, or results cannot be written.
        ImageError: If there are no images, or a result would replace one of them.
        TokenError: If the model is no vision transformer.
        CheckpointError: If it cannot be loaded.
    """
    sheets = _checked(options)

    from owlkit.evaluation.feature_kinds import image_tower
    from owlkit.evaluation.features import load_encoder
    from owlkit.torch_backend import find_device

    device = find_device(options.device)
    model, preprocessing = load_encoder(options.model)
    tower = image_tower(model).to(device)
    found: dict[str, dict[str, Any]] = {}
    for source, file in sheets.items():
        try:
            found[source] = _look(tower, preprocessing, source, file, options=options)
        except (ImageError, OSError) as error:
            name = describe_source(source)
            print(f"skipped {name}: {str(error).removeprefix(f'{name}: ')}", file=sys.stderr)
    if options.json:
        write_json(options.json, found)
    print(f"{len(found)} images, {len(sheets) - len(found)} skipped: {options.out}")
    return 0 if len(found) == len(sheets) else 1


def _checked(options: argparse.Namespace) -> dict[str, Path]:
    """The sheet of each image; finds what is wrong with the options, makes the folders."""
    if not 0 < options.mass <= 1:
        raise ConfigError(f"--mass: expected a share above 0 and at most 1, found {options.mass}")
    if options.size is not None and options.size < 1:
        raise ConfigError(f"--size: expected a number of pixels, found {options.size}")
    sources = find_sources(options.images, options.out)
    if options.out.suffix.lower() in _FORMATS:
        if len(sources) > 1:
            raise ConfigError(
                f"--out: expected a folder for {len(sources)} images, found the file {options.out}"
            )
        sheets = {sources[0]: options.out}
    else:
        sheets = {source: options.out / name for source, name in picture_names(sources).items()}
    results = [options.json] if options.json else []
    check_nothing_is_overwritten(sources, [*sheets.values(), *results])
    if options.out.suffix.lower() in _FORMATS:
        prepare_file(options.out, option="--out")
    else:
        prepare_folder(options.out, option="--out")
    if options.json:
        prepare_file(options.json, option="--json")
    return sheets


def _look(
    tower: "VisionTower",
    preprocessing: "Preprocessing",
    source: str,
    file: Path,
    *,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Draws one sheet; returns what is known of the image, ready for JSON."""
    from owlkit.evaluation.attention import find_objects, mass_mask, read_attention

    image = load_image(source)
    attention = read_attention(tower, preprocessing, image, size=options.size)
    objects = find_objects(
        attention.mean, mass_mask(attention.mean, options.mass), attention.transform
    )
    drawn = _draw(image, attention, objects, options)
    with written_whole(file) as scratch:
        drawn.save(scratch, format=_FORMATS[file.suffix.lower()], **_quality(file))
    heads, height, width = attention.heads.shape
    boxes = f", {len(objects)} boxes" if options.boxes else ""
    print(f"{describe_source(source)}: {heads} heads, {height}x{width} patches{boxes}")
    return {
        "image_size": list(attention.transform.image_size),
        "grid": [height, width],
        "heads": heads,
        "boxes": [
            {"box": [round(float(value), 2) for value in box], "mass": round(float(mass), 4)}
            for box, mass in zip(objects.boxes, objects.scores, strict=True)
        ],
    }


def _draw(
    image: NDArray[np.uint8],
    attention: AttentionMaps,
    objects: Detections,
    options: argparse.Namespace,
) -> Image.Image:
    """A sheet: the photograph, the mean of all heads and each head."""
    from owlkit.evaluation.attention import mass_mask

    small = _shrunk(Image.fromarray(image))
    photograph = (
        draw_detections(small, _scaled(objects, small), line_width=2) if options.boxes else small
    )
    maps = [attention.mean, *attention.heads]
    pictures = [
        outline(overlay(small, each, smooth=options.smooth), mass_mask(each, options.mass))
        for each in maps
    ]
    titles = ["image", "mean", *(f"head {number + 1}" for number in range(len(maps) - 1))]
    return sheet([photograph, *pictures], titles)


def _scaled(objects: Detections, picture: Image.Image) -> Detections:
    """The same boxes in a picture of another size."""
    height, width = objects.image_size or (picture.height, picture.width)
    scale = np.array([picture.width / width, picture.height / height] * 2, dtype=np.float32)
    size = picture.height, picture.width
    return replace(objects, boxes=objects.boxes * scale, image_size=size)


def _shrunk(picture: Image.Image) -> Image.Image:
    """The picture with a longer side that fits a sheet; small ones grow, to be seen."""
    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _quality(file: Path) -> dict[str, int]:
    """JPEG's usual quality would blur the outlines."""
    return {"quality": 92} if _FORMATS[file.suffix.lower()] == "JPEG" else {}
