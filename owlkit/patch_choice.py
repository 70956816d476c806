"""Which patch of an example image stands for the object that a person points at.

Shapes: P patches. Boxes are xyxy (x0, y0, x1, y1) as fractions of the model input.
"""

import reprlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.backend import PatchArrays
from owlkit.errors import QueryError
from owlkit.suppression import box_iou

ChoiceRule = Literal["objectness", "confidence", "dissimilarity", "overlap"]

DEFAULT_RULE: dict[bool, ChoiceRule] = {True: "objectness", False: "confidence"}
"""The rule for models with an objectness head and for those without.

Measured with the quickstart's detector on its scenes, AP50 with one exact example a class:
objectness (a head trained on the frozen detector) 0.90, confidence 0.90, overlap 0.88,
dissimilarity 0.84; with boxes a tenth of their size off, 0.90, 0.89, 0.77 and 0.77.
"""

# Of the best overlap; patches above it are candidates.
_CANDIDATE_SHARE = 0.8
# The same where nothing overlaps: generalised IoU is negative there, and a factor below 1 would
# leave no candidate at all, as it does in transformers.
_DISTANT_SHARE = 1.2
# A box of which less lies inside the image is in another frame than it should be.
_LEAST_INSIDE = 0.5

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ChosenPatch:
    """The patch that was taken as the example.

    Attributes:
        patch: Its index, in [0, P).
        iou: Overlap of its box with the box that was asked for, in [0, 1]; with the whole image
            where there was none.
        objectness: Logit that it holds any object; None for models without that head.
    """

    patch: int
    iou: float
    objectness: float | None


def choose_patch(
    arrays: PatchArrays,
    box: ArrayLike | None,
    *,
    rule: ChoiceRule | None = None,
    extent: ArrayLike = (0.0, 0.0, 1.0, 1.0),
) -> ChosenPatch:
    """Chooses the patch whose embedding asks for the object in a box.

    Candidates are the patches whose predicted box overlaps the given one by at least 0.8 times the
    best IoU. If none overlaps it at all, generalised IoU (negative then) of at least 1.2 times the
    best takes its place. Among them

    - ``"objectness"`` takes the highest objectness, as the authors of OWLv2 advise [0],
    - ``"confidence"`` the highest logit that a patch can give to any query, (1 + shift) * scale:
      what an objectness head is trained to foretell, for models without one; owlkit's own rule,
    - ``"dissimilarity"`` the embedding with the smallest dot product with the mean embedding of
      all patches (neither normalised), the published rule of OWL-ViT [1],
    - ``"overlap"`` the highest IoU.

    Equal values: the lower index. Unlike [1], no epsilon is added to the areas; it would matter to
    boxes of less than a hundredth of the input's side.

    - [0]: https://github.com/google-research/scenic/issues/989
    - [1]: Simple Open-Vocabulary Object Detection with Vision Transformers, 2022,
      https://arxiv.org/abs/2205.06230; scenic, projects/owl_vit/notebooks/inference.py

    Args:
        arrays: The encoded example image.
        box: Around the object, xyxy in [0, 1]; what reaches beyond ``extent`` does not count. None
            asks for whatever the image shows: the patch of highest objectness, as transformers 5
            takes it for OWLv2, and for models without that head the dissimilarity rule with
            ``extent`` as the box, as it does for OWL-ViT.
        rule: How to choose; None for :data:`DEFAULT_RULE` or, without a box, for what is said
            there. Without a box, ``"objectness"`` looks at all patches, the others at the
            candidates of ``extent``.
        extent: Part of the model input that the image covers, xyxy; the rest is padding.

    Returns:
        The patch, how well its box agrees with the one asked for, and its objectness.

    Raises:
        QueryError: If the box is not four finite numbers, has swapped corners or no area, or lies
            mostly outside the image; if the rule is unknown or needs objectness that the model
            does not predict; if there is no patch, or the model's answer is not finite.
    """
    has_objectness = arrays.objectness is not None
    _check_rule(rule, has_objectness)
    _check_arrays(arrays)
    image = _checked_box("extent", np.clip(_checked_box("extent", extent), 0, 1))
    target = image if box is None else _part_inside(_checked_box("box", box), image)
    if rule is None:
        without_box: ChoiceRule = "objectness" if has_objectness else "dissimilarity"
        rule = without_box if box is None else DEFAULT_RULE[has_objectness]
    everything = box is None and rule == "objectness"
    candidates = (
        np.arange(len(arrays.boxes)) if everything else candidate_patches(arrays.boxes, target)
    )
    patch = _best_of(arrays, target, rule, candidates)
    return ChosenPatch(
        patch=patch,
        iou=float(box_iou(arrays.boxes[[patch]], target[None])[0, 0]),
        objectness=None if arrays.objectness is None else float(arrays.objectness[patch]),
    )


def candidate_patches(boxes: NDArray[Any], box: ArrayLike) -> Indices:
    """The patches that may stand for a box, wherever it lies; see :func:`choose_patch`.

    Args:
        boxes: Predicted boxes, xyxy [P, 4], at least one.
        box: xyxy [4], in the unit of ``boxes``.

    Returns:
        Ascending indices [K], int64, at least one.
    """
    nearness, overlapping = _nearness(boxes, np.asarray(box, dtype=np.float64))
    best = nearness.max()
    return np.flatnonzero(nearness >= (_CANDIDATE_SHARE if overlapping else _DISTANT_SHARE) * best)


def _best_of(arrays: PatchArrays, target: Floats, rule: ChoiceRule, candidates: Indices) -> int:
    """The candidate of the highest value; of equal ones the first."""
    if rule == "objectness":
        assert arrays.objectness is not None
        return int(candidates[arrays.objectness[candidates].argmax()])
    if rule == "overlap":
        nearness, _ = _nearness(arrays.boxes, target)
        return int(candidates[nearness[candidates].argmax()])
    if rule == "confidence":
        largest = (1 + arrays.logit_shift.astype(np.float64)) * arrays.logit_scale
        return int(candidates[largest[candidates].argmax()])
    embeds = arrays.class_embeds.astype(np.float64)
    return int(candidates[(embeds[candidates] @ embeds.mean(axis=0)).argmin()])


def _nearness(boxes: NDArray[Any], target: Floats) -> tuple[Floats, bool]:
    """IoU of boxes [P, 4] with the target [4], and True; if all are 0, generalised IoU and False.

    Generalized Intersection over Union, 2019, https://arxiv.org/abs/1902.09630.
    """
    overlaps = box_iou(boxes, target[None])[:, 0]
    if overlaps.any():
        return overlaps, True
    boxes = boxes.astype(np.float64)
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    union = size.prod(axis=1) + _area(target)
    hull = np.maximum(boxes[:, 2:], target[2:]) - np.minimum(boxes[:, :2], target[:2])
    area = hull.prod(axis=1)
    # Rounding must not make the best one positive: no box would be above 1.2 times that.
    return np.minimum(-(area - union) / area, 0), False


def _part_inside(box: Floats, image: Floats) -> Floats:
    """The part of a box [4] that the image [4] covers."""
    inside = np.concatenate([np.maximum(box[:2], image[:2]), np.minimum(box[2:], image[2:])])
    if not _area(inside) >= _LEAST_INSIDE * _area(box):
        raise QueryError(
            f"box: expected one that lies mostly inside the image, which covers {image.tolist()} of"
            f" the model input; found {box.tolist()}"
        )
    return inside


def _area(box: Floats) -> float:
    # A box in absurd numbers may be infinitely large; that is no reason for a warning.
    with np.errstate(over="ignore"):
        return float(np.maximum(box[2:] - box[:2], 0).prod())


def _checked_box(name: str, box: ArrayLike) -> Floats:
    try:
        checked = np.asarray(box, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise QueryError(
            f"{name}: expected four numbers x0, y0, x1, y1, found {reprlib.repr(box)}"
        ) from error
    if checked.shape != (4,):
        raise QueryError(
            f"{name}: expected four numbers x0, y0, x1, y1, found shape {list(checked.shape)}"
        )
    if not np.isfinite(checked).all():
        raise QueryError(f"{name}: expected finite numbers, found {checked.tolist()}")
    if not (checked[2:] > checked[:2]).all() or _area(checked) == 0:
        raise QueryError(f"{name}: expected x0 < x1 and y0 < y1 (xyxy), found {checked.tolist()}")
    return checked


def _check_rule(rule: ChoiceRule | None, has_objectness: bool) -> None:
    if rule is not None and rule not in get_args(ChoiceRule):
        known = ", ".join(get_args(ChoiceRule))
        raise QueryError(f"expected a rule of {known}; found {rule!r}")
    if rule == "objectness" and not has_objectness:
        raise QueryError(
            "expected a model with an objectness head for the rule 'objectness'; found one without:"
            " use 'confidence', 'dissimilarity' or 'overlap'"
        )


def _check_arrays(arrays: PatchArrays) -> None:
    if not len(arrays.boxes):
        raise QueryError("expected an encoded image of at least one patch, found none")
    parts = {
        "boxes": arrays.boxes,
        "embeddings": arrays.class_embeds,
        "shifts": arrays.logit_shift,
        "scales": arrays.logit_scale,
    }
    if arrays.objectness is not None:
        parts["objectness"] = arrays.objectness
    for name, values in parts.items():
        if not np.isfinite(values).all():
            raise QueryError(f"expected finite {name} of the example image, found NaN or infinity")
