"""The patch that stands for an example object: golden choices, and the answers it leads to."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from owlkit import OwlDetector, ops
from owlkit.backend import PatchArrays
from owlkit.errors import QueryError
from owlkit.ops import cxcywh_to_xyxy
from owlkit.patch_choice import DEFAULT_RULE, ChoiceRule, candidate_patches, choose_patch
from owlkit.postprocess import Selection, postprocess
from owlkit.structures import ImageFeatures
from tests.encoders.test_hf_vision import copy_as_model_folder

RULES: tuple[ChoiceRule, ...] = ("objectness", "confidence", "dissimilarity", "overlap")


def patches(boxes, *, embeds=None, objectness=None, shift=0, scale=1) -> PatchArrays:
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    embeds = np.eye(max(len(boxes), 1))[: len(boxes)] if embeds is None else embeds
    return PatchArrays(
        class_embeds=np.asarray(embeds, dtype=np.float32),
        boxes=boxes,
        logit_shift=np.broadcast_to(np.float32(shift), len(boxes)),
        logit_scale=np.broadcast_to(np.float32(scale), len(boxes)),
        objectness=None if objectness is None else np.asarray(objectness, dtype=np.float32),
    )


def corners(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turns cxcywh [N, 4] into xyxy."""
    centre, size = np.split(boxes.astype(np.float64), 2, axis=1)
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def test_the_published_rule_golden(golden: Callable[[str], Path]) -> None:
    inputs = np.load(golden("12_image_query") / "inputs.npz")
    outputs = np.load(golden("12_image_query") / "outputs.npz")
    embeds = inputs["class_embeddings"]
    arrays = patches(corners(inputs["pred_boxes_cxcywh"]), embeds=embeds)
    chosen = []
    for box, overlapping in zip(inputs["query_boxes_yxyx"], outputs["n_overlapping"], strict=True):
        box = box[[1, 0, 3, 2]]
        candidates = candidate_patches(arrays.boxes, box)
        similarity = embeds.astype(np.float64) @ embeds.mean(axis=0, dtype=np.float64)
        chosen.append(candidates[similarity[candidates].argmin()])
        # Two boxes that overlap nothing lie outside the image, where nobody may ask.
        if overlapping:
            found = choose_patch(arrays, box, rule="dissimilarity")
            assert found.patch == chosen[-1]
            assert found.iou > 0
    np.testing.assert_array_equal(chosen, outputs["best_index"])
    np.testing.assert_allclose(embeds[chosen], outputs["query_embedding"], atol=1e-6)


def one_image(features: ImageFeatures, index: int) -> PatchArrays:
    objectness = features.objectness
    return PatchArrays(
        class_embeds=features.class_embeds[index].numpy(),
        boxes=cxcywh_to_xyxy(features.boxes[index]).numpy(),
        logit_shift=features.logit_shift[index, :, 0].numpy(),
        logit_scale=features.logit_scale[index, :, 0].numpy(),
        objectness=None if objectness is None else objectness[index].numpy(),
    )


@pytest.mark.parametrize("prefix", ["", "odd_"], ids=["native size", "other size"])
@pytest.mark.parametrize("name", ["01_owlvit", "02_owlv2"])
@torch.no_grad()
def test_the_whole_image_as_a_query_matches_transformers(
    golden: Callable[[str], Path], tmp_path: Path, name: str, prefix: str
) -> None:
    detector = OwlDetector.from_pretrained(copy_as_model_folder(golden(name), tmp_path / "model"))
    inputs = np.load(golden(name) / "inputs.npz")
    outputs = np.load(golden(name) / "outputs.npz")
    tolerance = json.loads((golden(name) / "tolerance.json").read_text())

    def encoded(key: str) -> ImageFeatures:
        pixels: Tensor = torch.from_numpy(inputs[f"{key}{'_odd' if prefix else ''}"])
        return detector.encode_images(pixels)

    def assert_close(key: str, value: Tensor) -> None:
        key = f"{prefix}ig_{key}"
        np.testing.assert_allclose(value, outputs[key], atol=tolerance.get(key, 1e-5), err_msg=key)

    examples, targets = encoded("query_pixel_values"), encoded("pixel_values")
    arrays = [one_image(examples, index) for index in range(2)]
    chosen = [choose_patch(example, None).patch for example in arrays]
    assert chosen == outputs[f"{prefix}ig_query_box_index"][:, 0].tolist()
    # transformers 4 had one rule for both models.
    older = f"{prefix}ig_query_box_index{'' if name == '01_owlvit' else '_v4rule'}"
    for box in (None, (0, 0, 1, 1)):
        found = [choose_patch(example, box, rule="dissimilarity").patch for example in arrays]
        assert found == outputs[older][:, 0].tolist()

    queries = examples.class_embeds[[0, 1], chosen][:, None]
    assert_close("query_embeds", queries)
    assert_close("logits", detector.score(targets, queries))
    assert_close("target_pred_boxes", targets.boxes)


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("setting", [0, 1, 2])
@pytest.mark.parametrize(("name", "model"), [("01_owlvit", "owlvit"), ("02_owlv2", "owlv2")])
def test_answers_to_an_image_query_match_transformers(
    golden: Callable[[str], Path], name: str, model: str, setting: int, image: int
) -> None:
    """Theirs rescales the scores of an image by its best one; owlkit never does, this test does."""
    outputs = np.load(golden(name) / "outputs.npz")
    expected = np.load(golden("02b_owl_processing") / f"post_{model}.npz")
    threshold, nms_iou = expected[f"ig{setting}_threshold_nms"]
    height, width = (int(side) for side in expected["target_sizes"][image])
    scale = np.array([width, height] * 2 if model == "owlvit" else [max(height, width)] * 4)
    # A margin on all sides, so that no box is clipped: theirs clips none.
    margin = 2 * max(height, width)
    found = postprocess(
        outputs["ig_logits"][image],
        corners(outputs["ig_target_pred_boxes"][image]) * scale + margin,
        names=["example"],
        image_size=(height + 2 * margin, width + 2 * margin),
        selection=Selection(
            threshold=float(threshold), nms_iou=None if nms_iou >= 1 else float(nms_iou)
        ),
    )
    best = found.scores.max(initial=0) + 1e-6
    alphas = np.clip((found.scores - 0.1 * best) / (0.9 * best), 0, 1)
    kept = alphas > 0
    scores = expected[f"ig{setting}_{image}_scores"]
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(alphas[kept], scores[order], rtol=1e-5, atol=1e-5)
    boxes = expected[f"ig{setting}_{image}_boxes"][order]
    np.testing.assert_allclose(found.boxes[kept] - margin, boxes, atol=1e-3)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), rule=st.sampled_from(RULES))
def test_choice_equals_a_loop(seed: int, count: int, rule: ChoiceRule) -> None:
    """On a coarse grid, where many values are equal and often nothing overlaps."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 6, (count + 1, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 3, (count + 1, 2))], axis=1) / 8
    embeds, objectness = rng.integers(-2, 3, (count, 3)), rng.integers(-2, 3, count)
    shift, scale = rng.integers(-2, 1, count), rng.integers(1, 3, count)
    arrays = patches(boxes[1:], embeds=embeds, objectness=objectness, shift=shift, scale=scale)
    tensors = torch.from_numpy(boxes[1:]), torch.from_numpy(boxes[:1])
    ious: list[float] = ops.box_iou(*tensors)[:, 0].tolist()
    near, share = ious, 0.8
    if max(ious) == 0:
        near, share = ops.generalized_box_iou(*tensors)[:, 0].tolist(), 1.2
    mean = [sum(column) / count for column in zip(*embeds.tolist(), strict=True)]
    best: tuple[float, int] | None = None
    for patch in range(count):
        value = {
            "objectness": float(objectness[patch]),
            "confidence": float((1 + shift[patch]) * scale[patch]),
            "dissimilarity": -sum(a * b for a, b in zip(mean, embeds[patch], strict=True)),
            "overlap": near[patch],
        }[rule]
        if near[patch] >= share * max(near) and (best is None or value > best[0] + 1e-12):
            best = (value, patch)
    assert best is not None
    found = choose_patch(arrays, boxes[0], rule=rule)
    assert found.patch == best[1]
    assert found.iou == pytest.approx(ious[best[1]])
    assert found.objectness == objectness[best[1]]


def test_defaults_depend_on_the_objectness_head() -> None:
    boxes = [[0, 0, 0.5, 0.5], [0.02, 0, 0.5, 0.5], [0.6, 0.6, 1, 1]]
    example, plain = patches(boxes, objectness=[0, 1, 2]), patches(boxes)
    for arrays in (example, plain):
        rule = DEFAULT_RULE[arrays.objectness is not None]
        found = choose_patch(arrays, boxes[0])
        assert found == choose_patch(arrays, boxes[0], rule=rule)
    assert choose_patch(example, boxes[0]).patch == 1
    assert choose_patch(plain, boxes[0]).patch == 0
    assert choose_patch(plain, boxes[0]).objectness is None
    # Without a box, whatever stands out most.
    assert choose_patch(example, None).patch == 2


def test_padding_is_no_part_of_the_whole_image() -> None:
    arrays = patches([[0, 0, 1, 1], [0, 0, 1, 0.5], [0.2, 0.2, 0.4, 0.4]])
    assert choose_patch(arrays, None, rule="overlap").patch == 0
    found = choose_patch(arrays, None, rule="overlap", extent=(0, 0, 1, 0.5))
    assert (found.patch, found.iou) == (1, 1.0)
    # A crop shows only the middle of a wide image.
    assert choose_patch(arrays, None, rule="overlap", extent=(-2, 0, 3, 1)).iou == 1.0
    # What a box holds of the padding does not count.
    assert choose_patch(arrays, (0, 0, 1, 0.9), rule="overlap", extent=(0, 0, 1, 0.5)).iou == 1.0


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, float("nan"), 1), r"finite numbers, found \[0.0, 0.0, nan"),
        ((0, 0, float("inf"), 1), "finite numbers"),
        ((0, 0, 1), r"four numbers x0, y0, x1, y1, found shape \[3\]"),
        ([[0, 0, 1, 1]], r"found shape \[1, 4\]"),
        ("left", "four numbers x0, y0, x1, y1, found 'left'"),
        ((0.5, 0, 0.4, 1), "x0 < x1 and y0 < y1"),
        ((0, 0.5, 1, 0.5), "x0 < x1 and y0 < y1"),
        ((1e-200, 1e-200, 2e-200, 2e-200), "x0 < x1 and y0 < y1"),
        ((1.1, 0, 1.5, 1), "mostly inside the image"),
        ((0, 0, 1e308, 1e308), "mostly inside the image"),
        ((0, 0, 640, 480), r"mostly inside the image, which covers \[0.0, 0.0, 1.0, 1.0\]"),
    ],
)
def test_a_bad_box_is_explained(box: object, message: str) -> None:
    arrays = patches([[0, 0, 1, 1]])
    with pytest.raises(QueryError, match=f"box: .*{message}"):
        choose_patch(arrays, box)  # type: ignore[arg-type]


def test_misuse_is_explained() -> None:
    arrays = patches([[0, 0, 1, 1]])
    with pytest.raises(QueryError, match="a model with an objectness head"):
        choose_patch(arrays, None, rule="objectness")
    with pytest.raises(QueryError, match="overlap; found 'best'"):
        choose_patch(arrays, None, rule="best")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="extent: "):
        choose_patch(arrays, None, extent=(1.5, 0, 2, 1))
    with pytest.raises(QueryError, match="inside the image, which covers"):
        choose_patch(arrays, (0, 0.6, 1, 1), extent=(0, 0, 1, 0.5))
    with pytest.raises(QueryError, match="at least one patch"):
        choose_patch(patches([]), None)
    with pytest.raises(QueryError, match="finite boxes"):
        choose_patch(patches([[0, 0, 1, np.nan]]), None)
    with pytest.raises(QueryError, match="finite objectness"):
        choose_patch(patches([[0, 0, 1, 1]], objectness=[np.inf]), None)
