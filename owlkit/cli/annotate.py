"""``owlkit annotate``: label files of all images of a folder, by words or example boxes."""

import argparse
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from owlkit.annotation import AnnotationJob, Group, Results, Shard
from owlkit.annotation.settings import SETTINGS_FILE, read_settings
from owlkit.cli.files import find_sources, prepare_folder
from owlkit.cli.model_options import add_model_arguments, model_options
from owlkit.cli.query_option import QUERIES_HELP, TEMPLATES_HELP, read_queries
from owlkit.cli.selection_options import add_selection_arguments, detect_options
from owlkit.contact_sheet import by_doubt, draw_contact_sheet
from owlkit.errors import ConfigError, ImageError
from owlkit.labels import (
    Content,
    LabelFolder,
    check_voc_names,
    coco_files,
    voc_files,
    yolo_files,
)
from owlkit.labels.coco import COCO_FILE
from owlkit.labels.voc import VOC_FILES
from owlkit.labels.yolo import YOLO_FILES
from owlkit.prompts import TEMPLATES
from owlkit.visualize import class_palette

if TYPE_CHECKING:
    from owlkit.detections import Detections
    from owlkit.predictor import Predictor
    from owlkit.queries import QuerySet
    from owlkit.visualize import Palette

SUMMARY = "label a folder of images; write COCO, YOLO or Pascal VOC files and contact sheets"

_FORMATS = {
    "coco": (coco_files, (COCO_FILE,)),
    "yolo": (yolo_files, YOLO_FILES),
    "voc": (voc_files, VOC_FILES),
}
_SUMMARY_FILE = "summary.json"
_SHEETS = "sheets"
_PROGRESS = "progress"
_PER_SHEET = 24
_SHOWN = 10

Images = dict[str, Path]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[MODEL] FOLDER",
        help="model (folder or hub id), unless --model says it; then folders of images",
    )
    parser.add_argument("--model", help="model folder or hub id")
    parser.add_argument("--queries", required=True, help=QUERIES_HELP)
    parser.add_argument("--out", type=Path, required=True, help="folder for labels and progress")
    parser.add_argument("--format", choices=tuple(_FORMATS), default="coco", help="(default coco)")
    parser.add_argument(
        "--shard",
        help="part that this process does: 2/8, the second of eight (default: by RANK and "
        "WORLD_SIZE, as torchrun sets them)",
    )
    parser.add_argument(
        "--merge", action="store_true", help="detect nothing; write the labels of what is done"
    )
    parser.add_argument(
        "--sheets",
        type=int,
        default=10,
        help=f"most contact sheets of {_PER_SHEET} images, doubtful ones first (default 10)",
    )
    add_selection_arguments(parser)
    parser.add_argument(
        "--templates", choices=sorted(TEMPLATES), default="none", help=TEMPLATES_HELP
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images per pass (default 1)")
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Goes on where the job was left, and writes the labels once every image is done.

    Images that cannot be read are listed in ``summary.json`` and stop nothing.

    Returns:
        0, or 130 after an interrupt.

    Raises:
        ImageError: If there are no images.
        ConfigError: If an option cannot be used, the folder holds labels of others, or the job in
            it was begun with other settings.
        QueryError: If the queries or an option of detection cannot be used.
        DatasetError: If the progress is damaged, or names do not fit the format.
        CheckpointError: If the model cannot be loaded.
    """
    # Whatever can be found wrong is, before a large model is loaded.
    model, folders = _model_and_folders(options)
    shard = _checked_shard(options)
    queries = read_queries(options.queries, options.templates)
    keywords = detect_options(options)
    images, settings = _find_images(folders, options.out)
    settings |= _settings(options, queries)
    progress = options.out / _PROGRESS
    output = LabelFolder(options.out, progress / "written.txt")
    _check_names(options.format, images, queries.names)
    if options.merge or (progress / SETTINGS_FILE).exists():
        job = AnnotationJob(progress, settings, begin=False)
    prepare_folder(options.out, option="--out")
    output.check_free([*_FORMATS[options.format][1], _SHEETS, _SUMMARY_FILE])
    labelled = 0
    if not options.merge:
        predictor = _load(model, options)
        job = AnnotationJob(progress, settings | _identity(predictor))

        def detect(pictures: list[NDArray[np.uint8]]) -> "list[Detections]":
            return predictor.detect(tuple(pictures), queries, **keywords)

        try:
            groups = job.groups(images, shard, options.batch_size)
            labelled = _label(job, groups, detect, shard, options.out)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            return 130
        missing = len(job.missing(images))
        if missing:
            print(f"shard {shard.number}/{shard.count} done; {missing} images of others are not")
            return 0
    palette = class_palette(one.colour for one in queries.classes)
    _write(job.results(images), output, options, palette, again=options.merge or labelled > 0)
    return 0


def _model_and_folders(options: argparse.Namespace) -> tuple[str, list[str]]:
    words: list[str] = options.words
    if options.model is not None:
        return options.model, words
    if len(words) < 2:
        raise ConfigError(
            f"expected a model and a folder of images, found only {words[0]}; write MODEL FOLDER, "
            "or FOLDER --model MODEL"
        )
    return words[0], words[1:]


def _checked_shard(options: argparse.Namespace) -> Shard:
    """The part of this process; finds wrong numbers among the options."""
    for option, value, least in (
        ("--batch-size", options.batch_size, 1),
        ("--sheets", options.sheets, 0),
    ):
        if value < least:
            raise ConfigError(f"{option}: expected at least {least}, found {value}")
    if options.shard is not None:
        try:
            return Shard.parse(options.shard)
        except ConfigError as error:
            raise ConfigError(f"--shard: {error}") from None
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal()):
        raise ConfigError(f"RANK and WORLD_SIZE: expected numbers, found {rank!r} and {count!r}")
    return Shard(int(rank) + 1, int(count))


def _find_images(folders: Sequence[str], out: Path) -> tuple[Images, dict[str, Any]]:
    """The images by name below the folder that holds all, in order; and that folder's parts."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise ImageError(f"{folder}: expected a folder of images, found none")
    places = [os.path.abspath(folder) for folder in folders]
    try:
        root = os.path.commonpath(places)
    except ValueError as error:
        raise ConfigError(f"expected folders below one, found {', '.join(folders)}") from error
    others = _other_results(folders)
    found = {
        Path(os.path.relpath(source, root)).as_posix(): Path(os.path.abspath(source))
        for source in find_sources(folders, out)
        if others.isdisjoint(Path(os.path.abspath(source)).parents)
    }
    if not found:
        raise ImageError(f"expected images, found only results in {', '.join(folders)}")
    parts = sorted(Path(os.path.relpath(place, root)).as_posix() for place in places)
    return {name: found[name] for name in sorted(found)}, {"folders": parts}


def _other_results(folders: Iterable[str]) -> set[Path]:
    """Results of other jobs in the folders: sheets and links to images, which are none of these."""
    results = set()
    for folder in map(os.path.abspath, folders):
        for settings in Path(folder).rglob(f"{_PROGRESS}/{SETTINGS_FILE}"):
            with suppress(ConfigError):
                read_settings(settings)
                results.add(settings.parent.parent)
        # One that is named is meant.
        results.discard(Path(folder))
    return results


def _settings(options: argparse.Namespace, queries: "QuerySet") -> dict[str, Any]:
    """What results depend on besides the model; the format is not among it."""
    same = (
        *("templates", "threshold", "nms_iou", "top_k", "exclusive", "class_agnostic", "soft_nms"),
        *("box_fusion", "tile", "tile_overlap", "batch_size"),
    )
    asked: str = options.queries
    if os.path.isfile(asked):
        asked = f"file {blake2b(Path(asked).read_bytes(), digest_size=16).hexdigest()}"
    chosen = {name: getattr(options, name) for name in same}
    return {"classes": list(queries.names), "queries": asked, **chosen}


def _identity(predictor: "Predictor") -> dict[str, Any]:
    """The model's part of the settings."""
    backend = predictor.backend
    calibration = backend.calibration
    return {
        "model": backend.identity,
        # An exported model has the identity of the one it was made from, but other last bits, or
        # with int8 other boxes.
        "precision": backend.precision,
        "model_threshold": backend.threshold,
        "model_calibration": None if calibration is None else calibration.to_dict(),
    }


def _check_names(form: str, images: Iterable[str], classes: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise ConfigError(f"--queries: expected every class once, found twice: {repeated}")
    if form == "voc":
        check_voc_names(images, classes)


def _load(model: str, options: argparse.Namespace) -> "Predictor":
    from owlkit.predictor import Predictor

    return Predictor.from_pretrained(
        model,
        batch_size=options.batch_size,
        **model_options(options) | {"device": options.device or _own_gpu(model, options)},
    )


def _own_gpu(model: str, options: argparse.Namespace) -> str | None:
    """The GPU of a process that torchrun started; None elsewhere."""
    from owlkit.runtime import is_exported

    rank = os.environ.get("LOCAL_RANK", "")
    # On what an exported model runs, its providers say.
    if not rank.isdecimal() or options.providers is not None or is_exported(model):
        return None
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(rank) % count}" if count else None


def _label(
    job: AnnotationJob, groups: Sequence[Group], detect: Any, shard: Shard, out: Path
) -> int:
    """Labels what is not done yet; returns how many images that were."""
    from tqdm import tqdm

    total = sum(len(group.wanted) for group in groups)
    if total:
        # Whatever labels there are will be outdated.
        (out / _SUMMARY_FILE).unlink(missing_ok=True)
    name = "labelling" if shard.count == 1 else f"shard {shard.number}/{shard.count}"
    # None: shown in a terminal only.
    with tqdm(desc=name, total=total, unit="image", disable=None) as bar:
        for _ in job.label(groups, detect, shard):
            bar.update()
    return total


def _write(
    results: Results,
    output: LabelFolder,
    options: argparse.Namespace,
    palette: "Palette",
    *,
    again: bool,
) -> None:
    """Writes labels, sheets and, last, the summary."""
    summary = output.folder / _SUMMARY_FILE
    asked = {
        "format": options.format,
        "sheets": options.sheets,
        "images": len(results),
        "unreadable": results.unreadable,
    }
    if not again and _is_written(summary, asked):
        print(f"all {len(results)} images are done; --merge writes {output.folder} again")
        return
    summary.unlink(missing_ok=True)
    counts: Counter[int] = Counter()
    for image in results:
        counts.update(image.detections.labels.tolist())
    content = {
        **asked,
        "boxes": counts.total(),
        "boxes_of_classes": {name: counts[row] for row, name in enumerate(results.classes)},
    }
    write_format = _FORMATS[options.format][0]
    files: Iterable[tuple[str, Content]] = chain(
        write_format(results, results.classes),
        _draw_sheets(results, options.sheets, palette),
        [(_SUMMARY_FILE, [json.dumps(content, indent=1), "\n"])],
    )
    output.replace(files)
    for name, error in list(results.unreadable.items())[:_SHOWN]:
        print(f"unreadable {name}: {error}", file=sys.stderr)
    if len(results.unreadable) > _SHOWN:
        print(f"... all of them in {summary}", file=sys.stderr)
    print(
        f"{len(results)} images, {counts.total()} boxes, {len(results.unreadable)} unreadable: "
        f"{output.folder}"
    )


def _is_written(summary: Path, asked: dict[str, Any]) -> bool:
    """Whether the labels that are asked for were written completely."""
    try:
        found = json.loads(summary.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {key: found.get(key) for key in asked} == asked


def _draw_sheets(results: Results, most: int, palette: "Palette") -> Iterator[tuple[str, bytes]]:
    order = by_doubt(results.least_scores.items())
    for number in range(most):
        names = order[number * _PER_SHEET : (number + 1) * _PER_SHEET]
        if not names:
            return
        drawn = io.BytesIO()
        sheet = draw_contact_sheet(list(results.of(names)), palette=palette)
        sheet.save(drawn, format="JPEG", quality=90)
        yield f"{_SHEETS}/sheet-{number + 1:03}.jpg", drawn.getvalue()
