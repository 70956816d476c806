"""``owlkit convert``: annotations of other formats become COCO's JSON."""

import argparse
from pathlib import Path

from owlkit.cli.files import prepare_file, write_json

SUMMARY = "convert annotations to COCO's JSON"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("format", choices=["voc"], help="what the annotations are: Pascal VOC XML")
    parser.add_argument("folder", help="folder with Annotations/*.xml, or with *.xml")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="file to write")
    parser.add_argument("--split", help="only the images of ImageSets/Main/SPLIT.txt")
    parser.add_argument(
        "--names",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        metavar="A,B,...",
        help="classes in the order of their ids; default: all that occur, by alphabet",
    )
    parser.add_argument(
        "--offset",
        type=int,
        choices=[0, 1],
        default=1,
        help="1 (default): corners are the first and last pixel, counted from 1, as in VOC; "
        "0: corners are coordinates of the edges, as most annotation tools write them",
    )


def run(options: argparse.Namespace) -> int:
    """Converts and writes; returns 0.

    Raises:
        ConfigError: If the file cannot be written.
        DatasetError: If the annotations cannot be used.
    """
    from owlkit.data.formats import voc_to_coco

    prepare_file(options.out, option="OUT.json")
    content = voc_to_coco(
        options.folder, split=options.split, names=options.names, offset=options.offset
    )
    write_json(options.out, content)
    counts = ", ".join(f"{len(items)} {part}" for part, items in content.items())
    print(f"{options.out}: {counts}")
    return 0
