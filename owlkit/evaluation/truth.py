"""What detections are measured against: an annotation file, all of it or a part."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from owlkit.data.coco_json import parse_truth
from owlkit.data.dataset_report import DatasetReport, Finding, Findings
from owlkit.data.linked_rows import usable_annotations
from owlkit.data.split import ClassSplit, read_split
from owlkit.errors import DatasetError
from owlkit.evaluation.coco import BoxMetrics, measure_boxes, split_metrics
from owlkit.evaluation.lvis import measure_lvis

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Truth:
    """An annotation file and the rules it is measured by.

    Attributes:
        content: The COCO or LVIS dictionary, without masks and without unusable annotations.
        names: Name of each category id that counts: all, or those of the split.
        is_federated: Whether the file is LVIS's: classes are judged only where they were looked
            for.
        split: Base and novel categories, or None.
        fixed_ap: Whether LVIS's AP is measured without a limit of detections per image.
    """

    content: dict[str, Any]
    names: dict[int, str]
    is_federated: bool
    split: ClassSplit | None = None
    fixed_ap: bool = False

    def measure(
        self,
        results: list[dict[str, Any]] | Path,
        *,
        image_ids: Sequence[int] | None = None,
    ) -> BoxMetrics:
        """COCO's numbers, or LVIS's for its files; base and novel apart where there is a split.

        Args:
            results: COCO results or their file.
            image_ids: Measure on these images only.

        Raises:
            DatasetError: If the results cannot be used.
        """
        if self.is_federated:
            measured = measure_lvis(
                self.content,
                results,
                fixed_ap=self.fixed_ap,
                image_ids=image_ids,
                category_ids=list(self.names),
            )
        else:
            measured = measure_boxes(
                self.content, results, image_ids=image_ids, category_ids=list(self.names)
            )
        if self.split is None:
            return measured
        parts = split_metrics(measured, self.split.base_ids, self.split.novel_ids)
        return replace(measured, metrics=measured.metrics | parts)


def read_truth(
    annotations: Path,
    *,
    split: Path | None = None,
    fixed_ap: bool = False,
    settings: tuple[str, str] = ("annotations", "split"),
) -> Truth:
    """Reads an annotation file and checks all that measuring will need.

    Annotations that a data set is read without for training (of unknown images or categories,
    with boxes that cannot be used) are left out here, too, and counted in the log; everything else
    that is wrong stops at once.

    Args:
        annotations: COCO or LVIS JSON.
        split: JSON with ``base`` and ``novel`` classes; others then do not count.
        fixed_ap: Measure LVIS's AP without a limit of detections per image.
        settings: What errors call ``annotations`` and ``split``: the user's options or keys.

    Raises:
        DatasetError: If a file cannot be read, they do not fit, or fixed AP is asked of a file that
            is not LVIS's.
    """
    file, content = parse_truth(annotations, setting=settings[0])
    if fixed_ap and not file.federated:
        raise DatasetError(
            f"{annotations}: fixed AP is LVIS's: expected images with neg_category_ids, found none"
        )
    findings = Findings()
    usable = usable_annotations(file, findings)
    content["annotations"] = [content["annotations"][row] for row in usable]
    _log(findings, annotations, content)
    names = dict(zip(file.category_ids, file.names, strict=True))
    classes = None
    if split is not None:
        classes = read_split(split, (file.names, file.category_ids), setting=settings[1])
        counted = {*classes.base_ids, *classes.novel_ids}
        names = {key: name for key, name in names.items() if key in counted}
    truth = Truth(content, names, file.federated, classes, fixed_ap)
    try:
        # What would be refused after hours is refused now: nothing found is a result like others.
        truth.measure([])
    except DatasetError as error:
        raise DatasetError(f"{annotations}: {error}") from error
    return truth


def _log(findings: Findings, annotations: Path, content: dict[str, Any]) -> None:
    """Says what the truth goes without; boxes that leave their image stay as they are."""
    del findings.counts[Finding.PARTLY_OUTSIDE]
    report = DatasetReport.of(
        findings,
        source=f"{annotations}, to measure against",
        images=len(content["images"]),
        boxes=len(content["annotations"]),
    )
    _logger.log(logging.WARNING if report.has_faults else logging.DEBUG, "%s", report)
