"""``owlkit make-shards``: images and captions become tar shards."""

import argparse
from pathlib import Path

SUMMARY = "write images and captions to tar shards for training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "captions",
        type=Path,
        metavar="CAPTIONS",
        help="file of captions: .jsonl, .csv, .tsv, .parquet, or COCO's .json",
    )
    parser.add_argument(
        "images", type=Path, metavar="IMAGES", help="folder that the file names are relative to"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--split", help="only what has this value under `split`")
    parser.add_argument(
        "--per-shard", type=int, default=1000, help="images in a shard; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order; default: %(default)s")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read and name them, instead of writing nothing",
    )


def run(options: argparse.Namespace) -> int:
    """Checks and writes; returns 0.

    Raises:
        DatasetError: If captions or images cannot be used.
    """
    from owlkit.data.captions import read_captioned_images
    from owlkit.data.shard_writing import write_shards

    images = read_captioned_images(options.captions, options.images, split=options.split)
    written = write_shards(
        images,
        options.out,
        per_shard=options.per_shard,
        seed=options.seed,
        skip_unreadable=options.skip_unreadable,
    )
    for message in written.left_out:
        print(f"left out: {message}")
    print(
        f"{options.out}: {sum(written.sizes.values())} images in {len(written.sizes)} shards"
        + (f", {len(written.left_out)} left out" if written.left_out else "")
    )
    return 0
