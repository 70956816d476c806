"""``owlkit evaluate-encoder``: how good a pair of towers, or an image tower, is."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from owlkit.cli.files import prepare_file, prepare_folder, write_json
from owlkit.errors import ConfigError, DatasetError, QueryError
from owlkit.prompts import ALIASES, TEMPLATES, resolve_templates
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from owlkit.data.captions import CaptionedImage
    from owlkit.data.class_images import ClassImages
    from owlkit.data.coco import DetectionDataset
    from owlkit.evaluation.encoder import ClassFeatures, ClassScores, Probe
    from owlkit.evaluation.feature_cache import Images
    from owlkit.evaluation.features import Encoder

SUMMARY = "measure an encoder: zero-shot classes, probes, retrieval, copies"


@dataclass(frozen=True)
class _Plan:
    """How to measure.

    Attributes:
        probes: To use; some of ``_PROBES``.
        more: Further measurements that learn from labelled images: some of ``_MORE``.
        neighbours: Further numbers of neighbours for the k-NN probe.
        shots: Numbers of examples a class for few-shot prototypes.
        templates: Around the names of classes.
    """

    probes: "tuple[Probe, ...]"
    more: tuple[str, ...]
    neighbours: tuple[int, ...]
    shots: tuple[int, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Data:
    """What to measure on; None and nothing where it is not asked for."""

    test: "ClassImages | None"
    train: "ClassImages | None"
    captioned: "tuple[CaptionedImage, ...]"
    boxes: "DetectionDataset | None"
    copied: "Images | None"
    distractors: "Images | None"

    def count(self, plan: _Plan) -> int:
        """How many images will be encoded."""
        boxes = () if self.boxes is None else self.boxes.images
        classes = sum(len(images) for images in (self.test, self.train) if images is not None)
        # Layers take a pass of their own; of copies there are as many as originals.
        classes *= 2 if "layers" in plan.more else 1
        copies = 0 if self.copied is None else 2 * len(self.copied)
        distractors = 0 if self.distractors is None else len(self.distractors)
        return classes + len(self.captioned) + len(boxes) + copies + distractors

    @property
    def zero_shot(self) -> bool:
        """Whether classes are to be told by their names, because there is nothing to learn from."""
        return self.test is not None and self.train is None


_PROBES: "tuple[Probe, ...]" = ("knn", "ridge", "logistic", "linear", "prototype")
# A grid of linear layers over several blocks, and images of the same class found by images.
_MORE = ("layers", "retrieval")


# Options that say nothing without another one.
_NEEDS = (
    ("train_classes", "classes"),
    ("names", "classes"),
    ("probes", "train_classes"),
    ("neighbours", "train_classes"),
    ("few_shot", "train_classes"),
    ("split", "captions"),
    ("captions", "images"),
    ("multi_label", "images"),
    ("distractors", "copies"),
    ("whiten", "distractors"),
)


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
        "--probes", help=f"which of {','.join((*_PROBES, *_MORE))} to use (default knn,ridge)"
    )
    classes.add_argument(
        "--neighbours", help="further numbers of neighbours for knn: 10,20,100,200"
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
    copies = parser.add_argument_group("copy detection")
    pictures = "a folder of images at any depth, or .npz as above"
    copies.add_argument(
        "--copies", type=Path, help=f"images to make strong copies of and to find: {pictures}"
    )
    copies.add_argument("--distractors", type=Path, help=f"to search among, too: {pictures}")
    copies.add_argument(
        "--whiten", action="store_true", help="whiten vectors, as the distractors teach"
    )
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
        TokenError: If layers are asked of a tower that is no vision transformer.
        CheckpointError: If the model cannot be loaded.
    """
    plan = _checked(options)
    from rich.progress import Progress

    from owlkit.evaluation.feature_cache import FeatureCache
    from owlkit.evaluation.feature_kinds import count_layers
    from owlkit.evaluation.features import Encoder, load_encoder
    from owlkit.torch_backend import find_device

    device = find_device(options.device)
    cache = None if options.cache is None else FeatureCache(options.cache)
    data = _read(options)
    model, preprocessing = load_encoder(options.model)
    with Progress(transient=True) as progress:
        bar = progress.add_task("encoding", total=data.count(plan))
        encoder = Encoder(
            model.to(device),
            preprocessing=preprocessing,
            cache=cache,
            batch_size=options.batch_size,
            on_images=lambda count: progress.advance(bar, count),
        )
        if data.captioned or data.boxes is not None or data.zero_shot:
            encoder.check_text()
        if "layers" in plan.more:
            # Raises if there are none to take.
            count_layers(encoder.vision)
        metrics, scored = _measure(encoder, data, plan, options)
    _report(metrics, scored, options)
    return 0


def _checked(options: argparse.Namespace) -> _Plan:
    """Finds what is wrong with the options before hours are spent; makes the folders of results."""
    wanted_data = ("classes", "captions", "multi_label", "copies")
    if not any(getattr(options, option) for option in wanted_data):
        words = ", ".join(map(_word, wanted_data[:-1]))
        raise ConfigError(f"expected {words} or {_word(wanted_data[-1])}, found nothing to do")
    for option, needed in _NEEDS:
        if getattr(options, option) not in (None, False) and getattr(options, needed) is None:
            raise ConfigError(f"{_word(option)}: expected {_word(needed)} with it, found none")
    wanted = _listed("knn,ridge" if options.probes is None else options.probes)
    if unknown := [name for name in wanted if name not in (*_PROBES, *_MORE)]:
        raise ConfigError(
            f"--probes: expected some of {','.join((*_PROBES, *_MORE))}, found {unknown[0]!r}"
        )
    plan = _Plan(
        probes=tuple(name for name in _PROBES if name in wanted),
        more=tuple(name for name in _MORE if name in wanted),
        neighbours=_numbers(options.neighbours, option="--neighbours"),
        shots=_numbers(options.few_shot, option="--few-shot"),
        templates=_read_templates(options.templates),
    )
    if options.out:
        prepare_folder(options.out, option="--out")
    if options.json:
        prepare_file(options.json, option="--json")
    return plan


def _numbers(words: str | None, *, option: str) -> tuple[int, ...]:
    """Numbers above 0, each once, in their order."""
    listed = _listed(words or "")
    if not all(word.isdecimal() and int(word) > 0 for word in listed):
        raise ConfigError(f"{option}: expected numbers as in 1,2,4; found {words!r}")
    return tuple(dict.fromkeys(map(int, listed)))


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
    copied, distractors = map(_read_pictures, (options.copies, options.distractors))
    return _Data(test, train, captioned, boxes, copied, distractors)


def _read_pictures(path: Path | None) -> "Images | None":
    """Pictures of whatever class."""
    from owlkit.data.class_images import read_class_images
    from owlkit.data.image_sources import read_images

    if path is None:
        return None
    return read_class_images(path) if path.suffix.lower() == ".npz" else read_images(path)


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
        metrics |= _measure_learning(encoder, data, test, plan, seed=options.seed)
    if data.captioned:
        metrics |= measuring.measure_retrieval(encoder, data.captioned)
    if data.boxes is not None:
        scored["multi_label"] = measuring.measure_multi_label(
            encoder, data.boxes, templates=plan.templates
        )
        metrics |= scored["multi_label"].metrics
    if data.copied is not None:
        from owlkit.evaluation.copy_detection import measure_copies

        metrics |= measure_copies(
            encoder,
            data.copied,
            distractors=data.distractors,
            whiten=options.whiten,
            seed=options.seed,
        )
    return metrics, scored


def _measure_learning(
    encoder: "Encoder", data: _Data, test: "ClassFeatures", plan: _Plan, *, seed: int
) -> dict[str, float]:
    """What labelled images teach about others."""
    from owlkit.evaluation import encoder as measuring
    from owlkit.evaluation.image_retrieval import measure_class_retrieval
    from owlkit.evaluation.layers import measure_layers

    if data.train is None or data.test is None:
        return {}
    train = measuring.encode_classes(encoder, data.train)
    metrics = measuring.measure_probes(
        train, test, probes=plan.probes, neighbours=plan.neighbours, seed=seed
    )
    metrics |= measuring.measure_few_shot(train, test, shots=plan.shots, seed=seed)
    if "layers" in plan.more:
        metrics |= measure_layers(encoder, data.train, data.test, seed=seed)
    if "retrieval" in plan.more:
        metrics |= measure_class_retrieval(train, test)
    return metrics


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
    about_classes, others = ("classes", "train_classes"), ("captions", "split", "multi_label")
    parts = (*about_classes, *others, "copies", "distractors")
    given = [f"{_word(part)} {getattr(options, part)}" for part in parts if getattr(options, part)]
    return f"{options.model}, templates {options.templates}\n{', '.join(given)}\n"
