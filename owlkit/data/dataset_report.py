"""What is wrong in a data set, how often, and what was done about it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

EXAMPLES = 3
"""Number of examples that are kept of each kind of finding."""


class Finding(Enum):
    """A kind of finding and the rule that handles it.

    Attributes:
        title: What was found.
        action: What is done about each.
        is_fault: False for what belongs in a sound data set but is left out all the same.
    """

    MISSING_IMAGE = ("image file missing", "image dropped")
    UNREADABLE_IMAGE = ("image unreadable", "image dropped")
    OUTSIDE_FOLDER = ("file name that leads out of the image folder", "image dropped")
    WRONG_SIZE = ("image of another size than annotated", "image dropped")
    REPEATED_IMAGE = (
        "file listed as another image before",
        "merged into one image for training, kept for measuring",
    )
    UNKNOWN_IMAGE = ("annotation of an image that is not listed", "annotation dropped")
    UNKNOWN_CATEGORY = ("category id that is not listed", "annotation dropped")
    DUPLICATE_ANNOTATION = ("annotation id used before", "all annotations kept")
    NOT_FINITE = ("box with infinite or undefined numbers", "box dropped")
    EMPTY = ("box of zero or negative size", "box dropped")
    OUTSIDE = ("box wholly outside its image", "box dropped")
    PARTLY_OUTSIDE = ("box partly outside its image", "box clipped")
    CONTRADICTION = ("class said to be absent that has boxes", "taken as present")
    CROWD = ("crowd region", "no target; see data.crowd", False)
    CROWDED_CLASS = ("box of a class that also has a crowd region", "box dropped", False)

    def __init__(self, title: str, action: str, is_fault: bool = True) -> None:
        self.title = title
        self.action = action
        self.is_fault = is_fault


class Findings:
    """Collects findings while a data set is read."""

    def __init__(self) -> None:
        self.counts: Counter[Finding] = Counter()
        self.examples: defaultdict[Finding, list[str]] = defaultdict(list)

    def add(self, kind: Finding, example: str) -> None:
        """Counts one finding; its text is kept if it is among the first."""
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(example)

    def add_rows(
        self, kind: Finding, mask: NDArray[np.bool_], describe: Callable[[int], str]
    ) -> None:
        """Counts the rows where ``mask`` [N] is true; only the first are put into words."""
        rows = np.flatnonzero(mask).tolist()
        for row in rows[: EXAMPLES - len(self.examples[kind])]:
            self.examples[kind].append(describe(row))
        self.counts[kind] += len(rows)


@dataclass(frozen=True)
class DatasetReport:
    """What a data set holds, and everything that was left out or altered on reading it.

    Attributes:
        source: The annotation file.
        images: Images that are left.
        boxes: Boxes that are left.
        counts: How often each kind of finding occurred; kinds that did not are left out.
        examples: The first of each kind, in words.
    """

    source: str
    images: int
    boxes: int
    counts: Mapping[Finding, int]
    examples: Mapping[Finding, tuple[str, ...]]

    @classmethod
    def of(cls, findings: Findings, *, source: str, images: int, boxes: int) -> "DatasetReport":
        """The report of what was collected."""
        found = [kind for kind in Finding if findings.counts[kind]]
        return cls(
            source=source,
            images=images,
            boxes=boxes,
            counts={kind: findings.counts[kind] for kind in found},
            examples={kind: tuple(findings.examples[kind]) for kind in found},
        )

    @property
    def has_faults(self) -> bool:
        """Whether anything is wrong with the data set."""
        return any(kind.is_fault for kind in self.counts)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.images} images, {self.boxes} boxes"]
        for kind, count in self.counts.items():
            lines.append(f"  {count} x {kind.title}: {kind.action}")
            lines += [f"      {example}" for example in self.examples[kind]]
            if count > len(self.examples[kind]):
                lines.append(f"      and {count - len(self.examples[kind])} more")
        return "\n".join(lines)
