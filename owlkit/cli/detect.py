"""``owlkit detect``: annotated pictures and videos, and what was found as JSON."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from owlkit.cli.files import (
    check_nothing_is_overwritten,
    find_sources,
    picture_names,
    prepare_folder,
    write_json,
)
from owlkit.cli.model_options import add_model_arguments, model_options
from owlkit.cli.progress import progress_bar
from owlkit.cli.query_option import QUERIES_HELP, TEMPLATES_HELP, read_queries
from owlkit.cli.selection_options import add_selection_arguments, detect_options
from owlkit.cli.stream import (
    DetectFrames,
    Draw,
    StreamOptions,
    detect_in_video,
    find_videos,
    video_targets,
)
from owlkit.detections import Detections
from owlkit.errors import ConfigError, ImageError
from owlkit.images import describe_source, load_image
from owlkit.prompts import TEMPLATES
from owlkit.tracking import Tracker
from owlkit.video import is_video
from owlkit.visualize import class_palette, draw_detections, load_font
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from owlkit.predictor import Predictor

SUMMARY = "find words or examples in images, videos and cameras; write pictures and JSON"

Images = list[NDArray[np.uint8]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="image, video, folder of them, URL, or the number of a camera",
    )
    parser.add_argument("--queries", required=True, help=QUERIES_HELP)
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    add_selection_arguments(parser)
    parser.add_argument(
        "--templates", choices=sorted(TEMPLATES), default="none", help=TEMPLATES_HELP
    )
    parser.add_argument("--every", type=int, default=1, help="of so many frames look at one")
    parser.add_argument("--max-frames", type=int, help="look at so many frames of each video")
    parser.add_argument(
        "--track", action="store_true", help="number the objects of a video (ByteTrack)"
    )
    parser.add_argument(
        "--track-score",
        type=float,
        default=0.0,
        help="boxes that score less only continue objects (default 0: all may begin one)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, help="frames or tiles per pass (default 8)"
    )
    parser.add_argument("--font", type=Path, help="font file for the names in the pictures")
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Detects, source by source; one that fails is reported and the others go on.

    Returns:
        0, or 1 if a source could not be read or a result not be written.

    Raises:
        ImageError: If there are no sources, or a result would replace one of them.
        QueryError: If the words or an option cannot be used.
        ConfigError: If a number of frames is out of its range, or results cannot be written.
        DetectionsError: If the font cannot be read.
        MissingDependencyError: If tracking is asked for and not installed.
    """
    # Whatever can be found wrong is, before a large model is loaded.
    queries = read_queries(options.queries, options.templates)
    keywords = detect_options(options)
    load_font(options.font, size=12)
    make_tracker = _checked_stream_options(options)
    videos = video_targets(find_videos(options.sources, options.out), options.out)
    sources = _find_images(options, optional=bool(videos))
    pictures = {source: options.out / name for source, name in picture_names(sources).items()}
    results = options.out / "detections.json"
    targets = [path for both in videos.values() for path in both]
    check_nothing_is_overwritten([*sources, *videos], [results, *pictures.values(), *targets])
    predictor = _load(options)
    prepare_folder(options.out, option="--out")
    palette = class_palette(one.colour for one in queries.classes)
    draw = partial(draw_detections, palette=palette, font=options.font)

    def detect(images: Images) -> list[Detections]:
        # Without their source, which would keep every frame in memory.
        return [
            one.without_source() for one in predictor.detect(tuple(images), queries, **keywords)
        ]

    counts, skipped = [], 0
    if pictures:
        found = _detect_in_images(pictures, results, detect, draw)
        counts.append(f"{found.done} images")
        skipped += found.skipped
    if videos:
        stream = StreamOptions(
            options.every, options.max_frames, predictor.batch_size, make_tracker
        )
        found = _detect_in_videos(videos, detect, draw, stream)
        counts.append(f"{found.done} videos")
        skipped += found.skipped
    print(f"{', '.join(counts)}, {skipped} skipped: {options.out}")
    return 1 if skipped else 0


class _Outcome(NamedTuple):
    """How many sources there is a result of, and how many went wrong somewhere."""

    done: int
    skipped: int


def _detect_in_images(
    pictures: dict[str, Path], results: Path, detect: DetectFrames, draw: Draw
) -> _Outcome:
    """Detects in one image after the other; writes a picture of each and one file of JSON."""
    found: dict[str, list[dict[str, Any]]] = {}
    skipped = 0
    try:
        for source, picture in pictures.items():
            try:
                image = load_image(source)
                detections = detect([image])[0]
                found[source] = detections.to_list()
                print(f"{describe_source(source)}: {_summary(detections)}")
                _save_picture(picture, draw(image, detections))
            except (ImageError, OSError, ValueError) as error:
                _report_skipped(source, error)
                skipped += 1
    finally:
        # Also when it is interrupted: what was found so far is kept.
        write_json(results, found)
    return _Outcome(len(found), skipped)


def _detect_in_videos(
    videos: dict[str, tuple[Path, Path]],
    detect: DetectFrames,
    draw: Draw,
    stream: StreamOptions,
) -> _Outcome:
    """Detects in one video after the other; writes a video and lines of JSON of each."""
    skipped = 0
    for source, targets in videos.items():
        try:
            with progress_bar(Path(describe_source(source)).name, "frame", leave=False) as show:
                summary = detect_in_video(
                    source, targets, detect=detect, draw=draw, options=stream, show=show
                )
            print(f"{describe_source(source)}: {summary}")
        except (ImageError, OSError, ValueError) as error:
            _report_skipped(source, error)
            skipped += 1
    return _Outcome(len(videos) - skipped, skipped)


def _find_images(options: argparse.Namespace, *, optional: bool) -> list[str]:
    """The images among the sources; raises ImageError if there are none but should be."""
    words = [word for word in options.sources if os.path.isdir(word) or not is_video(word)]
    try:
        return find_sources(words, options.out) if words or not optional else []
    except ImageError:
        if optional:
            return []
        raise


def _checked_stream_options(options: argparse.Namespace) -> Callable[[float], Tracker] | None:
    """What makes the tracker of a video, if one is asked for; raises what options deserve."""
    for option, value in (
        ("--every", options.every),
        ("--max-frames", options.max_frames),
        ("--batch-size", options.batch_size),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"{option}: expected at least 1, found {value}")
    if not options.track:
        return None
    make = partial(Tracker, start_score=options.track_score, class_agnostic=options.class_agnostic)
    make()
    return make


def _load(options: argparse.Namespace) -> "Predictor":
    from owlkit.predictor import Predictor

    return Predictor.from_pretrained(
        options.model,
        batch_size=options.batch_size,
        **model_options(options),
    )


def _save_picture(path: Path, picture: Image) -> None:
    """Writes a JPEG; raises OSError or ValueError where it is beyond the limits of that format."""
    with written_whole(path) as scratch:
        picture.save(scratch, format="JPEG")


def _report_skipped(source: str, error: Exception) -> None:
    """Says which source goes without its result, and why."""
    name = describe_source(source)
    print(f"skipped {name}: {str(error).removeprefix(f'{name}: ')}", file=sys.stderr)


def _summary(detections: Detections) -> str:
    counts = {name: detections.names.count(name) for name in dict.fromkeys(detections.names)}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing found"
