"""``owlkit calibrate``: scores that mean what they say, and thresholds, from labelled images."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owlkit.cli.files import prepare_file, prepare_folder, write_json
from owlkit.cli.query_option import TEMPLATES_HELP, read_queries
from owlkit.errors import CheckpointError, ConfigError
from owlkit.prompts import TEMPLATES
from owlkit.queries import QuerySet
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from owlkit.data.coco import ImageRecord
    from owlkit.evaluation.calibration import CalibrationFit
    from owlkit.evaluation.calibration_pairs import CalibrationPairs
    from owlkit.evaluation.calibration_report import CalibrationReport
    from owlkit.evaluation.operating_points import Target
    from owlkit.evaluation.truth import Truth
    from owlkit.predictor import Predictor

SUMMARY = "fit scores and thresholds to labelled images; store them with queries or the model"

_MANIFEST = "owlkit.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("model", metavar="MODEL", help="model folder or hub id")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO or LVIS JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "--val-annotations", type=Path, help="measure on these (default: fit on half, then on all)"
    )
    parser.add_argument("--val-images", type=Path, help="folder of their images")
    parser.add_argument(
        "--queries", help="file of queries, or words (default: the annotations' classes)"
    )
    parser.add_argument(
        "--templates", choices=sorted(TEMPLATES), default="none", help=TEMPLATES_HELP
    )
    parser.add_argument(
        "--method",
        choices=("temperature", "platt", "isotonic"),
        default="platt",
        help="what turns logits into probabilities (default platt)",
    )
    parser.add_argument(
        "--per",
        choices=("model", "class"),
        default="model",
        help="what gets a fit of its own (default model)",
    )
    parser.add_argument(
        "--threshold",
        default="f1",
        help="by what thresholds are chosen: f1, precision=0.9, recall=0.9 or none (default f1)",
    )
    parser.add_argument(
        "--iou", type=float, default=0.5, help="overlap from which a box is right (default 0.5)"
    )
    parser.add_argument("--nms-iou", type=float, default=0.5, help="as later used (default 0.5)")
    parser.add_argument("--max-images", type=int, help="use the first so many")
    parser.add_argument("--batch-size", type=int, default=8, help="images per pass (default 8)")
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")
    results = parser.add_mutually_exclusive_group()
    results.add_argument("--out", type=Path, help="file of queries to write")
    results.add_argument(
        "--write-model", action="store_true", help="write to MODEL's owlkit.json (--per model)"
    )
    parser.add_argument("--report", type=Path, help="folder for report and reliability diagram")


@dataclass(frozen=True, eq=False)
class _LabelledSet:
    """Images and what is in them."""

    records: "Sequence[ImageRecord]"
    truth: "Truth"


def run(options: argparse.Namespace) -> int:
    """Detects, fits, measures, writes; returns 0.

    Raises:
        ConfigError: If the options do not fit together, or results cannot be written.
        DatasetError: If annotations or images cannot be used.
        QueryError: If the queries cannot be used.
        CheckpointError: If the model cannot be loaded or written to.
    """
    from owlkit.evaluation.calibration import fit_pairs
    from owlkit.evaluation.operating_points import Target

    target = Target.parse(options.threshold)
    _check(options)
    labelled = _read(options, options.annotations, options.images, "")
    held_out = None
    if options.val_annotations:
        held_out = _read(options, options.val_annotations, options.val_images, "val-")
    queries = _queries(options, labelled.truth)
    predictor = _load(options)
    pairs = _collect(predictor, queries, labelled, options)
    measured = _collect(predictor, queries, held_out, options) if held_out else None
    fit = fit_pairs(pairs, method=options.method, per=options.per, target=target)
    measurement = _measure(pairs, measured, fit, target, options)
    # What was fitted first of all; pictures may fail.
    if options.out:
        _write_queries(queries, fit, options.out)
    if options.write_model:
        _write_model(Path(options.model), fit)
    print(measurement.report.to_markdown(), end="")
    if options.report:
        _write_report(measurement, options)
    for written in (options.out, options.write_model and options.model, options.report):
        if written:
            print(written)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Finds what is wrong with the options before a model is loaded."""
    from owlkit.postprocess import Selection

    if (options.val_annotations is None) != (options.val_images is None):
        raise ConfigError("--val-annotations and --val-images: expected both or none")
    for name in ("batch_size", "max_images"):
        value = getattr(options, name)
        if value is not None and value < 1:
            word = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{word}: expected at least 1, found {value}")
    Selection(nms_iou=options.nms_iou)
    if options.write_model:
        if options.per == "class":
            raise ConfigError("--per class: expected --out, because a model has no classes")
        _read_manifest(Path(options.model))
    if options.out:
        prepare_file(options.out, option="--out")
    if options.report:
        prepare_folder(options.report, option="--report")


def _read(
    options: argparse.Namespace, annotations: Path, images: Path, prefix: str
) -> _LabelledSet:
    from owlkit.data.coco import read_coco
    from owlkit.evaluation.truth import read_truth

    settings = (f"--{prefix}annotations", f"--{prefix}images")
    truth = read_truth(annotations, settings=(settings[0], "--split"))
    dataset = read_coco(
        annotations,
        images,
        max_images=options.max_images,
        merge_repeated=False,
        settings=settings,
    )
    return _LabelledSet(dataset.images, truth)


def _queries(options: argparse.Namespace, truth: "Truth") -> QuerySet:
    if options.queries is None:
        return QuerySet.from_text([*truth.names.values()], templates=options.templates)
    return read_queries(options.queries, options.templates)


def _load(options: argparse.Namespace) -> "Predictor":
    from owlkit.predictor import Predictor

    return Predictor.from_pretrained(
        options.model, device=options.device, batch_size=options.batch_size
    )


def _collect(
    predictor: "Predictor",
    queries: QuerySet,
    labelled: _LabelledSet,
    options: argparse.Namespace,
) -> "CalibrationPairs":
    from rich.progress import Progress

    from owlkit.evaluation.calibration_pairs import collect_pairs, probe_queries

    probes, threshold = probe_queries(queries)
    with Progress(transient=True) as progress:
        bar = progress.add_task("detecting", total=len(labelled.records))
        return collect_pairs(
            lambda images: predictor.detect(
                [*images], probes, threshold=threshold, nms_iou=options.nms_iou
            ),
            labelled.records,
            labelled.truth,
            probes.names,
            iou=options.iou,
            batch_size=options.batch_size,
            on_image=lambda: progress.advance(bar),
        )


@dataclass(frozen=True, eq=False)
class _Measurement:
    """The report, and what it was measured on and with."""

    report: "CalibrationReport"
    pairs: "CalibrationPairs"
    fit: "CalibrationFit"


def _measure(
    pairs: "CalibrationPairs",
    held_out: "CalibrationPairs | None",
    fit: "CalibrationFit",
    target: "Target | None",
    options: argparse.Namespace,
) -> _Measurement:
    """Measures on images that were not fitted on."""
    from owlkit.evaluation.calibration import fit_pairs, measure_fit
    from owlkit.evaluation.calibration_pairs import half_of
    from owlkit.evaluation.calibration_report import CalibrationReport

    words, fitted = f"{options.val_annotations}, fitted on {options.annotations}", fit
    if held_out is None:
        everywhere = {*pairs.image_ids.tolist(), *pairs.object_image_ids.tolist()}
        first = {key for key in everywhere if half_of(key) == 0}
        fitted = fit_pairs(
            pairs.among(first), method=options.method, per=options.per, target=target
        )
        held_out = pairs.among(everywhere - first)
        words = f"one half of the images of {options.annotations}, fitted on the other half"
    report = CalibrationReport(
        settings=_settings(options),
        held_out=words,
        before=measure_fit(held_out, None),
        after=measure_fit(held_out, fitted),
        fitted_on=measure_fit(pairs, fit),
        names=pairs.names,
        fit=fit,
    )
    return _Measurement(report, held_out, fitted)


def _write_report(measurement: _Measurement, options: argparse.Namespace) -> None:
    from owlkit.evaluation.calibration import calibrated_scores
    from owlkit.evaluation.reliability import reliability_bins
    from owlkit.evaluation.reliability_plot import draw_reliability

    folder, report, pairs = options.report, measurement.report, measurement.pairs
    write_json(folder / "report.json", report.to_dict())
    with written_whole(folder / "report.md") as scratch:
        scratch.write_text(report.to_markdown(), encoding="utf-8", errors="backslashreplace")
    panels = {
        heading: reliability_bins(calibrated_scores(pairs, used), pairs.is_true)
        for heading, used in (("before", None), (f"after ({options.method})", measurement.fit))
    }
    draw_reliability(panels, folder / "reliability.png", title=options.model)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "annotations", "queries", "templates", "method", "per", "threshold", "iou")
    chosen = {name: getattr(options, name) for name in (*names, "nms_iou")}
    if options.queries is not None and Path(options.queries).is_file():
        # A file has its prompts already.
        del chosen["templates"]
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in chosen.items()
        if value is not None
    }


def _write_queries(queries: QuerySet, fit: "CalibrationFit", out: Path) -> None:
    """Saves the queries; thresholds they had before were for other scores and go."""
    for name, settings in zip(queries.names, fit.classes, strict=True):
        threshold = None if settings.point is None else settings.point.threshold
        queries.update(name, calibration=settings.calibration, threshold=threshold)
    queries.save(out)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"--write-model: expected an owlkit model folder, found {folder}: {error}"
        ) from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{folder / _MANIFEST}: expected an object, found something else")
    return manifest


def _write_model(folder: Path, fit: "CalibrationFit") -> None:
    """Notes calibration and threshold in the model folder; weights stay as they are."""
    manifest = _read_manifest(folder)
    manifest["calibration"] = fit.shared.calibration.to_dict()
    # A threshold from before was for other scores.
    manifest.pop("threshold", None)
    if fit.shared.point is not None:
        manifest["threshold"] = fit.shared.point.threshold
    with written_whole(folder / _MANIFEST) as scratch:
        scratch.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
