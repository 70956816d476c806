"""``owlkit evaluate-queries``: what words find beside what examples find."""

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owlkit.cli.files import prepare_file, write_json
from owlkit.detections import Detections
from owlkit.errors import ConfigError, DatasetError
from owlkit.patch_choice import DEFAULT_RULE
from owlkit.queries import Combination, QuerySet

if TYPE_CHECKING:
    from owlkit.data.coco import DetectionDataset, ImageRecord
    from owlkit.evaluation.example_draws import DrawnExample
    from owlkit.evaluation.operating_points import Target
    from owlkit.evaluation.truth import Truth
    from owlkit.patch_choice import ChoiceRule
    from owlkit.predictor import Predictor

SUMMARY = "measure text queries, example boxes, both together, and negative examples"

# As in evaluation by words: the best so many of an image.
_TOP_K = 300
_LOWEST_SCORE = 0.001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("model", metavar="MODEL", help="model folder or hub id")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO JSON to measure on")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument(
        "--examples", type=Path, required=True, help="COCO JSON that examples are drawn from"
    )
    parser.add_argument(
        "--example-images", type=Path, required=True, help="folder of the examples' images"
    )
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[1, 5], help="examples of each class (1 5)"
    )
    parser.add_argument("--draws", type=int, default=3, help="how often they are drawn (3)")
    parser.add_argument(
        "--combination", choices=("mean", "max", "kmeans"), default="mean", help="(mean)"
    )
    parser.add_argument(
        "--text-weight", type=float, default=0.5, help="share of the text beside examples (0.5)"
    )
    parser.add_argument(
        "--threshold",
        default="f1",
        help="of each class, where negatives are measured: f1, precision=0.9 or recall=0.9 (f1)",
    )
    parser.add_argument("--nms-iou", type=float, default=0.5, help="(default 0.5)")
    parser.add_argument("--max-images", type=int, help="measure on the first so many")
    parser.add_argument("--batch-size", type=int, default=8, help="images per pass (default 8)")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all variants are measured with.

    Attributes:
        predictor: The model.
        dataset: Images to measure on.
        truth: Of the classes that are asked for.
        classes: Names of these.
        source: Images that examples are drawn from.
        options: Of the command line.
    """

    predictor: "Predictor"
    dataset: "DetectionDataset"
    truth: "Truth"
    classes: tuple[str, ...]
    source: "DetectionDataset"
    options: argparse.Namespace

    def examples(self, count: int, draw: int) -> "dict[str, list[DrawnExample]]":
        """Examples of each class."""
        from owlkit.evaluation.example_draws import draw_examples

        labels = [self.source.names.index(name) for name in self.classes]
        drawn = draw_examples(self.source.images, labels, count, seed=draw)
        return {name: drawn[label] for name, label in zip(self.classes, labels, strict=True)}

    def queries(
        self,
        examples: "dict[str, list[DrawnExample]] | None" = None,
        *,
        text: bool = False,
        choice: "ChoiceRule | None" = None,
    ) -> QuerySet:
        """The classes, asked for by their names, by examples, or by both."""
        combination = Combination(self.options.combination, text_weight=self.options.text_weight)
        queries = QuerySet(combination=combination, choice=choice)
        for name in self.classes:
            if text:
                queries.add_text(name, [name])
            for one in (examples or {}).get(name, ()):
                queries.add_example(name, one.path, one.box)
        return self.predictor.embed(queries)

    def detect(
        self, variants: Sequence[QuerySet]
    ) -> "Iterator[tuple[ImageRecord, list[Detections]]]":
        """What each of several query sets finds in each image, which is encoded once."""
        size = self.predictor.batch_size
        for start in range(0, len(self.dataset.images), size):
            records = self.dataset.images[start : start + size]
            scenes = self.predictor.encode([record.path for record in records])
            for record, scene in zip(records, scenes, strict=True):
                yield (
                    record,
                    [
                        self.predictor.detect(
                            scene,
                            queries,
                            threshold=_LOWEST_SCORE,
                            nms_iou=self.options.nms_iou,
                            top_k=_TOP_K,
                        )
                        for queries in variants
                    ],
                )


def run(options: argparse.Namespace) -> int:
    """Measures, prints, writes; returns 0.

    Raises:
        ConfigError: If an option is out of its range.
        DatasetError: If annotations, images or examples cannot be used.
        CheckpointError: If the model cannot be loaded.
    """
    from owlkit.evaluation.operating_points import Target

    target = Target.parse(options.threshold)
    if target is None:
        raise ConfigError("--threshold: expected f1, precision=P or recall=R, found none")
    _check(options)
    bench = _make_bench(options)
    rows = _measure_kinds(bench)
    print("| queries | AP | AP50 | lowest and highest AP50 of the draws |\n|---|---|---|---|")
    for name, row in rows.items():
        spread = f"{row['AP50_lowest']:.3f} - {row['AP50_highest']:.3f}"
        print(f"| {name} | {row['AP']:.3f} | {row['AP50']:.3f} | {spread} |", flush=True)
    negatives = _measure_negatives(bench, target)
    print(
        f"\nOne negative example of what each class is most often taken for, with one example of "
        f"the class:\nfalse positives on look-alikes {negatives['look_alikes_before']:.0f} -> "
        f"{negatives['look_alikes_after']:.0f}, true positives {negatives['true_before']:.0f} -> "
        f"{negatives['true_after']:.0f}"
    )
    if options.json:
        write_json(options.json, {**_flat(rows), **negatives})
    return 0


def _check(options: argparse.Namespace) -> None:
    """Finds what is wrong with the options before a model is loaded."""
    from owlkit.selection import Selection

    for name, values in (
        ("shots", options.shots),
        ("draws", [options.draws]),
        ("batch-size", [options.batch_size]),
        ("max-images", [] if options.max_images is None else [options.max_images]),
    ):
        if any(value < 1 for value in values):
            raise ConfigError(f"--{name}: expected at least 1, found {min(values)}")
    Selection(nms_iou=options.nms_iou)
    Combination(options.combination, text_weight=options.text_weight)
    if options.json:
        prepare_file(options.json, option="--json")


def _make_bench(options: argparse.Namespace) -> _Bench:
    from owlkit.data.coco import read_coco
    from owlkit.evaluation.truth import read_truth
    from owlkit.predictor import Predictor

    truth = read_truth(options.annotations, settings=("--annotations", "--split"))
    dataset = read_coco(
        options.annotations,
        options.images,
        max_images=options.max_images,
        merge_repeated=False,
        settings=("--annotations", "--images"),
    )
    source = read_coco(
        options.examples, options.example_images, settings=("--examples", "--example-images")
    )
    # A negative example is a second one of its class.
    most = max(2, *options.shots)
    enough = {
        name
        for name, count in zip(source.names, source.class_counts().tolist(), strict=True)
        if count >= most
    }
    counted = {key: name for key, name in truth.names.items() if name in enough}
    if not counted:
        raise DatasetError(
            f"{options.examples}: expected classes of {options.annotations} with at least {most} "
            "boxes each, found none"
        )
    left_out = len(truth.names) - len(counted)
    if left_out:
        print(f"{left_out} classes without {most} examples are left out")
    predictor = Predictor.from_pretrained(
        options.model, device=options.device, batch_size=options.batch_size
    )
    truth = replace(truth, names=counted)
    return _Bench(predictor, dataset, truth, tuple(counted.values()), source, options)


def _measure_kinds(bench: _Bench) -> dict[str, dict[str, float]]:
    """AP of words, of examples by each rule of choice, and of both together."""
    variants = list(_variants(bench))
    results: list[list[dict[str, Any]]] = [[] for _ in variants]
    ids = list(bench.truth.names)
    image_ids = []
    for record, found in bench.detect([queries for _, queries in variants]):
        image_ids.append(record.id)
        for rows, detections in zip(results, found, strict=True):
            rows += detections.to_coco(record.id, ids)
    measured: dict[str, list[dict[str, float]]] = {}
    for (name, _), rows in zip(variants, results, strict=True):
        metrics = bench.truth.measure(rows, image_ids=image_ids).metrics
        measured.setdefault(name, []).append(metrics)
    return {name: _summary(draws) for name, draws in measured.items()}


def _variants(bench: _Bench) -> Iterator[tuple[str, QuerySet]]:
    """Names and query sets; of several draws, one each."""
    yield "text", bench.queries(text=True)
    choices = _choices(bench)
    for count in bench.options.shots:
        what = f"{count} example{'s' if count > 1 else ''}"
        for draw in range(bench.options.draws):
            examples = bench.examples(count, draw)
            for choice in choices:
                yield f"{what}, {choice}", bench.queries(examples, choice=choice)
            yield f"text and {what}", bench.queries(examples, text=True)


def _choices(bench: _Bench) -> "list[ChoiceRule]":
    """The rules that this model can follow, its default first."""
    scene = bench.predictor.encode(bench.dataset.images[0].path)
    has_objectness = bench.predictor.patches(scene).objectness is not None
    rules: list[ChoiceRule] = ["objectness"] if has_objectness else []
    rules += ["confidence", "dissimilarity", "overlap"]
    return sorted(rules, key=lambda rule: rule != DEFAULT_RULE[has_objectness])


def _measure_negatives(bench: _Bench, target: "Target") -> dict[str, float]:
    """What a negative example of each class's look-alike does, mean over the draws."""
    from owlkit.evaluation.look_alikes import find_confusion

    labels = [bench.dataset.names.index(name) for name in bench.classes]
    draws = []
    for draw in range(bench.options.draws):
        examples = bench.examples(1, draw)
        plain = bench.queries(examples)
        before = find_confusion(_only(bench.detect([plain])), labels)
        thresholds = before.thresholds(target)
        rivals = before.look_alikes(thresholds)
        careful = bench.queries(examples)
        # Not the example that the look-alike itself is asked for with.
        others = bench.examples(2, draw)
        for name, rival in zip(bench.classes, rivals.tolist(), strict=True):
            if rival >= 0:
                one = others[bench.classes[rival]][1]
                careful.add_example(name, one.path, one.box, negative=True)
        bench.predictor.embed(careful)
        after = find_confusion(_only(bench.detect([careful])), labels)
        draws.append((*before.counts(thresholds, rivals), *after.counts(thresholds, rivals)))
    means = [statistics.mean(values) for values in zip(*draws, strict=True)]
    names = ("true_before", "look_alikes_before", "true_after", "look_alikes_after")
    return dict(zip(names, means, strict=True))


def _only(
    found: "Iterable[tuple[ImageRecord, list[Detections]]]",
) -> "Iterator[tuple[ImageRecord, Detections]]":
    return ((record, detections) for record, (detections,) in found)


def _summary(draws: Sequence[dict[str, float]]) -> dict[str, float]:
    def over(function: Callable[[Iterable[float]], float], key: str) -> float:
        return function([one[key] for one in draws])

    return {
        "AP": over(statistics.mean, "AP"),
        "AP50": over(statistics.mean, "AP50"),
        "AP50_lowest": over(min, "AP50"),
        "AP50_highest": over(max, "AP50"),
    }


def _flat(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{name}: {key}": value for name, row in rows.items() for key, value in row.items()}
