"""Training examples into one batch.

Shapes: B examples, M most boxes of any of them, Q queries per example, U distinct texts.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from owlkit.data.examples import Example
from owlkit.ops.boxes import xyxy_to_cxcywh
from owlkit.structures import DetectionBatch, DetectionTargets

PADDING_TEXT = ""
"""The query that fills up examples with fewer queries than others."""


def collate(
    examples: Sequence[Example],
    *,
    padding: Literal["masked", "negative"] = "masked",
    max_queries: int = 99,
) -> DetectionBatch:
    """Joins examples to a batch; each distinct text appears once.

    Args:
        examples: At least one, all of one image size.
        padding: How examples with fewer queries are filled up. `masked`: Q is the largest number of
            queries of any example, at least 1, and padding takes no part in the loss. `negative`: Q
            is ``max_queries``, and padding is the empty text, which takes part and is wrong
            everywhere; so OWL-ViT was trained, without its authors meaning to
            (https://github.com/google-research/scenic/issues/641).
        max_queries: Most queries of an example; used for `negative` only.

    Returns:
        The batch; M is 0 if no example has a box.
    """
    most = max(len(example.texts) for example in examples)
    masked = padding == "masked"
    width = max(most, 1) if masked else max(most, max_queries)
    rows: dict[str, int] = {}
    queries = np.zeros((len(examples), width), dtype=np.int64)
    query_mask = np.full((len(examples), width), not masked)
    for index, example in enumerate(examples):
        asked = example.texts if masked else _filled(example.texts, width)
        queries[index, : len(asked)] = [rows.setdefault(text, len(rows)) for text in asked]
        query_mask[index, : len(asked)] = True
    images = np.stack([example.image for example in examples])
    return DetectionBatch(
        # A view: laying the channels out first costs less on the device than in the loader.
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        # A batch that asks for nothing still needs a text for its padding to point at.
        texts=tuple(rows) or (PADDING_TEXT,),
        queries=torch.from_numpy(queries),
        targets=_targets(examples, query_mask),
        sources=tuple(example.source for example in examples),
        images_read=sum(example.images_read for example in examples),
        corrupt=tuple(path for example in examples for path in example.corrupt),
    )


def _filled(texts: tuple[str, ...], width: int) -> tuple[str, ...]:
    return texts + (PADDING_TEXT,) * (width - len(texts))


def _targets(examples: Sequence[Example], query_mask: NDArray[np.bool_]) -> DetectionTargets:
    """Boxes and labels, filled up with zeros."""
    batch, width = query_mask.shape
    most = max(len(example.boxes) for example in examples)
    boxes = np.zeros((batch, most, 4), dtype=np.float32)
    labels = np.zeros((batch, most, width), dtype=np.float32)
    box_mask = np.zeros((batch, most), dtype=np.bool_)
    for index, example in enumerate(examples):
        count, asked = example.labels.shape
        boxes[index, :count] = example.boxes
        labels[index, :count, :asked] = example.labels
        box_mask[index, :count] = True
    return DetectionTargets(
        boxes=xyxy_to_cxcywh(torch.from_numpy(boxes)),
        labels=torch.from_numpy(labels),
        box_mask=torch.from_numpy(box_mask),
        query_mask=torch.from_numpy(query_mask),
    )
