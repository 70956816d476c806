"""``owlkit evaluate``: how good a detector, or a file of its results, is."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owlkit.cli.files import prepare_file, prepare_folder, write_json
from owlkit.errors import ConfigError
from owlkit.prompts import TEMPLATES
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from owlkit.data.coco import DetectionDataset, ImageRecord
    from owlkit.evaluation.coco import BoxMetrics
    from owlkit.evaluation.predictions import PredictionSettings
    from owlkit.evaluation.truth import Truth
    from owlkit.models import OwlDetector

# Fixed AP is defined on so many (Dave et al. 2021, https://arxiv.org/abs/2102.01066).
_FIXED_AP_PER_CLASS = 10_000
_DRAWN = 300

SUMMARY = "measure a detector, or a results file, on COCO or LVIS annotations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "model", metavar="MODEL", help="model folder, hub id, or a .json file of COCO results"
    )
    parser.add_argument("--annotations", type=Path, required=True, help="COCO or LVIS JSON")
    parser.add_argument("--split", type=Path, help="JSON with base and novel classes")
    parser.add_argument("--out", type=Path, help="folder for report, curves, results, samples")
    parser.add_argument("--json", type=Path, help="file for the metrics, name to value")
    parser.add_argument("--fixed-ap", action="store_true", help="LVIS without a limit per image")
    # No defaults here, so that options for a model are noticed beside results.
    model = parser.add_argument_group("how a model is run; not for results")
    model.add_argument("--images", type=Path, help="folder of the images")
    model.add_argument("--templates", choices=sorted(TEMPLATES), help="(default ensemble7)")
    model.add_argument(
        "--as-written", action="store_true", default=None, help="keep capitals and punctuation"
    )
    model.add_argument(
        "--top-k",
        type=int,
        help="most boxes per image (default 300; with --fixed-ap no limit per image, but the best "
        f"{_FIXED_AP_PER_CLASS:,} of each class over all images)",
    )
    model.add_argument("--nms-iou", type=float, help="suppress overlaps above (default: none)")
    model.add_argument("--max-images", type=int, help="measure on the first so many")
    model.add_argument("--batch-size", type=int, help="images per pass (default 8)")
    model.add_argument("--samples", type=int, help="images drawn into OUT (default 8)")
    model.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")


_MODEL_OPTIONS = (
    *("images", "templates", "as_written", "top_k", "nms_iou", "max_images", "batch_size"),
    *("samples", "device"),
)


def run(options: argparse.Namespace) -> int:
    """Detects if need be, measures, prints and writes; returns 0.

    Raises:
        ConfigError: If the options do not fit together, or results cannot be written.
        DatasetError: If annotations, images or results cannot be used.
        CheckpointError: If the model cannot be loaded.
    """
    from owlkit.evaluation.truth import read_truth

    is_results = options.model.endswith(".json")
    _check(options, is_results=is_results)
    truth = read_truth(
        options.annotations,
        split=options.split,
        fixed_ap=options.fixed_ap,
        settings=("--annotations", "--split"),
    )
    if is_results:
        measured = truth.measure(Path(options.model))
        settings = "results as given"
    else:
        results, image_ids, settings = _detect(options, truth)
        measured = truth.measure(results, image_ids=image_ids)
    _report(measured, truth, options, settings)
    return 0


def _check(options: argparse.Namespace, *, is_results: bool) -> None:
    """Finds what is wrong with the options before hours are spent; makes the folders of results."""
    given = [name for name in _MODEL_OPTIONS if getattr(options, name) is not None]
    if is_results and given:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{words}: not for results, which are measured as they are")
    if not is_results and options.images is None:
        raise ConfigError("--images: expected the folder of the images to run a model on")
    for name, least in (("max_images", 1), ("samples", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            word = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{word}: expected at least {least}, found {value}")
    if options.out:
        prepare_folder(options.out, option="--out")
    if options.json:
        prepare_file(options.json, option="--json")


def _prediction_settings(options: argparse.Namespace) -> "PredictionSettings":
    from owlkit.evaluation.predictions import PredictionSettings

    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("templates", "top_k", "nms_iou", "batch_size")
        if getattr(options, name) is not None
    }
    if options.fixed_ap:
        given = {"top_k": None, "per_class": _FIXED_AP_PER_CLASS, **given}
    return PredictionSettings(canonicalize=not options.as_written, **given)


def _detect(
    options: argparse.Namespace, truth: "Truth"
) -> tuple[list[dict[str, Any]], list[int], str]:
    """Results, the images they are of, and the settings in words."""
    from rich.progress import Progress

    from owlkit.data.coco import read_coco
    from owlkit.evaluation.predictions import predict_results
    from owlkit.torch_backend import TorchBackend

    settings = _prediction_settings(options)
    dataset = read_coco(
        options.annotations,
        options.images,
        max_images=options.max_images,
        merge_repeated=False,
        settings=("--annotations", "--images"),
    )
    images = dataset.images
    detector = TorchBackend.from_pretrained(options.model, device=options.device).detector
    with Progress(transient=True) as progress:
        bar = progress.add_task("detecting", total=len(images))
        found = predict_results(
            detector,
            images,
            list(truth.names.values()),
            list(truth.names),
            settings=settings,
            on_image=lambda: progress.advance(bar),
        )
    if options.out:
        # First of all, because these took the time.
        write_json(options.out / "results.json", found.results)
        shown = images[: 8 if options.samples is None else options.samples]
        _draw_samples(detector, dataset, shown, truth, settings, options.out)
    words = f"{len(images)} images, {_in_words(settings)}"
    if found.unreadable:
        words += f"; nothing found in {len(found.unreadable)} that cannot be read"
    return found.results, [image.id for image in images], words


def _in_words(settings: "PredictionSettings") -> str:
    spelling = "" if settings.canonicalize else ", names as written"
    limits = [] if settings.top_k is None else [f"top {settings.top_k}"]
    if settings.per_class is not None:
        limits.append(f"top {settings.per_class} of each class over all images")
    nms = "no NMS" if settings.nms_iou is None else f"NMS at IoU {settings.nms_iou}"
    return f"templates {settings.templates}{spelling}, {', '.join(limits)}, {nms}"


def _draw_samples(
    detector: "OwlDetector",
    dataset: "DetectionDataset",
    images: "Sequence[ImageRecord]",
    truth: "Truth",
    settings: "PredictionSettings",
    out: Path,
) -> None:
    from owlkit.evaluation.predictions import detect_images
    from owlkit.evaluation.samples import draw_samples

    names = list(truth.names.values())
    # A picture shows a few; without a limit there are millions.
    settings = replace(settings, top_k=settings.top_k or _DRAWN)
    found = detect_images(detector, images, names, settings=settings)
    draw_samples(found, dataset.names, out / "samples")


def _report(
    measured: "BoxMetrics", truth: "Truth", options: argparse.Namespace, settings: str
) -> None:
    """Prints the numbers and writes them where they are wanted."""
    from owlkit.evaluation.report import format_classes, format_metrics

    metrics, classes = format_metrics(measured.metrics), format_classes(measured, truth.names)
    measure = "fixed AP, " if options.fixed_ap else ""
    heading = f"{options.model} on {options.annotations}\n{measure}{settings}"
    text = f"{heading}\n\n{classes}\n\n{metrics}\n"
    print(text, end="")
    if options.json:
        write_json(options.json, measured.metrics)
    if options.out:
        from owlkit.evaluation.plots import draw_precision_recall

        with written_whole(options.out / "report.txt") as scratch:
            scratch.write_text(text, encoding="utf-8")
        write_json(options.out / "metrics.json", measured.metrics)
        draw_precision_recall(measured, options.out / "precision_recall.png", title=options.model)
        print(options.out)
