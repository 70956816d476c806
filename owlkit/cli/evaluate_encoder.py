"""``owlkit evaluate-encoder``: how good a pair of towers, or an image tower, is."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from owlkit.cli.files import prepare_file, prepare_folder, write_json, written_whole
from owlkit.errors import ConfigError, DatasetError, QueryError
from owlkit.prompts import ALIASES, TEMPLATES, resolve_templates

if TYPE_CHECKING:
    from owlkit.data.captions import CaptionedImage
    from owlkit.data.class_images import ClassImages
    from owlkit.data.coco import DetectionDataset
    from owlkit.evaluation.encoder import ClassScores, Probe
    from owlkit.evaluation.features import Encoder

SUMMARY = "measure an encoder: zero-shot classes, probes, retrieval"


@dataclass(frozen=True)
class _Plan:
    """Probes to use, numbers of examples a class for few-shot prototypes, prompt templates."""

    probes: "tuple[Probe, ...]"
    shots: tuple[int, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Data:
    """What to measure on; None and nothing where it is not asked for."""

    test: "ClassImages | None"
    train: "ClassImages | None"
    captioned: "tuple[CaptionedImage, ...]"
    boxes: "DetectionDataset | None"

    @property
    def images(self) -> int:
        """How many will be encoded."""
        boxes = () if self.boxes is None else self.boxes.images
        classes = [images for images in (self.test, self.train) if images is not None]
        return sum(map(len, classes)) + len(self.captioned) + len(boxes)

    @property
    def zero_shot(self) -> bool:
        """Whether classes are to be told by their names, because there is nothing to learn from."""
        return self.test is not None and self.train is None


_PROBES: "tuple[Probe, ...]" = ("knn", "ridge", "logistic", "linear", "prototype")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "model", metavar="MODEL", help="folder or hub id: CLIP, SigLIP, or an image tower alone"
    )
    classes = parser.add_argument_group("images of classes")
    form = "a folder with one folder per class, or .npz with images, labels, label_names"
    classes.add_argument("--classes", type=Path, help=f"to measure on: {form}")
    classes.add_argument("--train-classes", type=Path, help="what probes learn from, alike")
    classes.add_argument("--names", type=Path, help="text file of the classes' names, one a line")
    classes.add_argument(
        "--probes", help=f"which of {','.join(_PROBES)} to use (default knn,ridge)"
    )
    classes.add_argument("--few-shot", help="examples a class for prototypes: 1,2,4,8,16")
    classes.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    other = parser.add_argument_group("other measurements")
    other.add_argument("--captions", type=Path, help="captions of images, for retrieval")
    other.add_argument("--split", help="only the captions that belong to it, for example val")
    other.add_argument(
        "--multi-label", type=Path, help="COCO boxes: which classes are in an image, for mAP"
    )
    other.add_argument("--images", type=Path, help="folder of the images of these files")
    parser.add_argument(
        "--templates",
        default="ensemble7",
        metavar="NAME|FILE",
        help="sentences around the names: a text file with one a line, each with {} in the place "
        f"of the name, or one of {', '.join(sorted(TEMPLATES))}, or of the data sets "
        f"{', '.join(ALIASES)} (default ensemble7)",
    )
    parser.add_argument("--out", type=Path, help="folder for metrics, tables and pictures")
    parser.add_argument("--json", type=Path, help="file for the metrics, name to value")
    parser.add_argument("--cache", type=Path, help="folder that keeps features between runs")
    parser.add_argument("--batch-size", type=int, default=64, help="images per pass (default 64)")
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")


def run(options: argparse.Namespace) -> int:
    """Measures what is asked for, prints and writes; returns 0.

    Raises:
        ConfigError: If the options do not fit together, or results cannot be written.
        DatasetError: If data cannot be used.
        QueryError: If texts are asked of an image tower alone.
        CheckpointError: If the model cannot be loaded.
    """
    plan = _checked(options)
    from rich.progress import Progress

    from owlkit.evaluation.feature_cache import FeatureCache
    from owlkit.evaluation.features import Encoder, load_encoder
    from owlkit.torch_backend import find_device

    device = find_device(options.device)
    cache = None if options.cache is None else FeatureCache(options.cache)
    data = _read(options)
    model, preprocessing = load_encoder(options.model)
    with Progress(transient=True) as progress:
        bar = progress.add_task("encoding", total=data.images)
        encoder = Encoder(
            model.to(device),
            preprocessing=preprocessing,
            cache=cache,
            batch_size=options.batch_size,
            on_images=lambda count: progress.advance(bar, count),
        )
        if data.captioned or data.boxes is not None or data.zero_shot:
            encoder.check_text()
        metrics, scored = _measure(encoder, data, plan, options)
    _report(metrics, scored, options)
    return 0


def _checked(options: argparse.Namespace) -> _Plan:
    """Finds what is wrong with the options before hours are spent; makes the folders of results."""
    if not (options.classes or options.captions or options.multi_label):
        raise ConfigError("expected --classes, --captions or --multi-label, found nothing to do")
    for option, needed in (
        *(("train_classes", "classes"), ("names", "classes"), ("probes", "train_classes")),
        *(("few_shot", "train_classes"), ("split", "captions"), ("captions", "images")),
        ("multi_label", "images"),
    ):
        if getattr(options, option) is not None and getattr(options, needed) is None:
            raise ConfigError(f"{_word(option)}: expected {_word(needed)} with it, found none")
    wanted = _listed("knn,ridge" if options.probes is None else options.probes)
    if unknown := [name for name in wanted if name not in _PROBES]:
        raise ConfigError(f"--probes: expected some of {','.join(_PROBES)}, found {unknown[0]!r}")
    shots = _listed(options.few_shot or "")
    if not all(shot.isdecimal() and int(shot) > 0 for shot in shots):
        raise ConfigError(f"--few-shot: expected numbers as in 1,2,4; found {options.few_shot!r}")
    if options.out:
        prepare_folder(options.out, option="--out")
    if options.json:
        prepare_file(options.json, option="--json")
    probes = tuple(name for name in _PROBES if name in wanted)
    return _Plan(probes, tuple(map(int, shots)), _read_templates(options.templates))


def _word(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _read(options: argparse.Namespace) -> _Data:
    from owlkit.data.captions import read_captioned_images
    from owlkit.data.class_images import read_class_images
    from owlkit.data.coco import read_coco
    from owlkit.evaluation.encoder import check_same_classes

    names = None if options.names is None else _read_lines(options.names, option="--names")
    captioned: tuple[CaptionedImage, ...] = ()
    boxes = None
    if options.captions:
        captioned = read_captioned_images(options.captions, options.images, split=options.split)
    if options.multi_label:
        boxes = read_coco(
            options.multi_label,
            options.images,
            merge_repeated=False,
            settings=("--multi-label", "--images"),
        )
    test, train = (
        None if path is None else read_class_images(path, names=names)
        for path in (options.classes, options.train_classes)
    )
    if test is not None and train is not None:
        check_same_classes(train, test)
    return _Data(test=test, train=train, captioned=captioned, boxes=boxes)


def _read_templates(name_or_file: str) -> tuple[str, ...]:
    try:
        return resolve_templates(name_or_file)
    except QueryError as error:
        path = Path(name_or_file)
        if not path.is_file():
            raise ConfigError(f"--templates: {error} (or give a text file, one a line)") from error
    try:
        return resolve_templates(_read_lines(path, option="--templates"))
    except QueryError as error:
        raise ConfigError(f"--templates {path}: {error}") from error


def _read_lines(path: Path, *, option: str) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        # With or without the sign that some programs put before UTF-8.
        with path.open(encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{option} {path}: expected a text file, found {error}") from error


def _measure(
    encoder: "Encoder", data: _Data, plan: _Plan, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, "ClassScores"]]:
    """All metrics by name, and what is known of the single classes, by the name of the part."""
    from owlkit.evaluation import encoder as measuring

    metrics: dict[str, float] = {}
    scored: dict[str, ClassScores] = {}
    if data.test is not None:
        test = measuring.encode_classes(encoder, data.test)
        # An image tower alone has no classes of its own, but probes can be put on it.
        if encoder.has_text:
            scored["classes"] = measuring.measure_zero_shot(encoder, test, templates=plan.templates)
            metrics |= scored["classes"].metrics
        if data.train is not None:
            train = measuring.encode_classes(encoder, data.train)
            metrics |= measuring.measure_probes(train, test, probes=plan.probes, seed=options.seed)
            metrics |= measuring.measure_few_shot(train, test, shots=plan.shots, seed=options.seed)
    if data.captioned:
        metrics |= measuring.measure_retrieval(encoder, data.captioned)
    if data.boxes is not None:
        scored["multi_label"] = measuring.measure_multi_label(
            encoder, data.boxes, templates=plan.templates
        )
        metrics |= scored["multi_label"].metrics
    return metrics, scored


def _report(
    metrics: dict[str, float], scored: dict[str, "ClassScores"], options: argparse.Namespace
) -> None:
    """Prints the numbers and writes them where they are wanted."""
    from owlkit.evaluation.encoder import format_classes, write_classes
    from owlkit.evaluation.plots import draw_confusion
    from owlkit.evaluation.report import format_metrics

    tables = [f"{name}\n{format_classes(one)}\n" for name, one in scored.items()]
    text = "\n".join([_heading(options), *tables, f"{format_metrics(metrics)}\n"])
    print(text, end="")
    if options.json:
        write_json(options.json, metrics)
    if not options.out:
        return
    with written_whole(options.out / "report.txt") as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
    write_json(options.out / "metrics.json", metrics)
    for name, one in scored.items():
        with written_whole(options.out / f"{name}.csv") as scratch:
            write_classes(one, scratch)
        if one.confusion is not None:
            file = options.out / "confusion.png"
            draw_confusion(one.confusion.numpy(), one.names, file, title=options.model)
    print(options.out)


def _heading(options: argparse.Namespace) -> str:
    """What was measured on what."""
    parts = ("classes", "train_classes", "captions", "split", "multi_label")
    given = [f"{_word(part)} {getattr(options, part)}" for part in parts if getattr(options, part)]
    return f"{options.model}, templates {options.templates}\n{', '.join(given)}\n"
