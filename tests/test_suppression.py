"""NMS in numpy: golden fixtures and its torch twin."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from owlkit import ops, suppression
from owlkit.errors import BoxError

THRESHOLDS = ["0.0", "0.3", "0.5", "0.7", "1.0"]


@pytest.fixture(scope="module")
def nms_inputs(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("09_nms") / "inputs.npz"))


@pytest.fixture(scope="module")
def nms_outputs(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("09_nms") / "outputs.npz"))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_nms_golden(nms_inputs, nms_outputs, threshold):
    boxes, scores, classes = (nms_inputs[name] for name in ("boxes", "scores", "classes"))
    found = suppression.nms(boxes, scores, float(threshold))
    np.testing.assert_array_equal(found, nms_outputs[f"nms_{threshold}"])
    batched = suppression.batched_nms(boxes, scores, classes, float(threshold))
    np.testing.assert_array_equal(batched, nms_outputs[f"batched_{threshold}"])


def test_nms_golden_large_and_negative(nms_inputs, nms_outputs):
    boxes, scores = nms_inputs["large_boxes"], nms_inputs["large_scores"]
    found = suppression.nms(boxes, scores, 0.5)
    np.testing.assert_array_equal(found, nms_outputs["large_nms_0.5"])
    found = suppression.batched_nms(boxes, scores, nms_inputs["large_classes"], 0.5)
    np.testing.assert_array_equal(found, nms_outputs["large_batched_0.5"])
    found = suppression.batched_nms(nms_inputs["negative_boxes"], [0.9, 0.8], [0, 1], 0.5)
    np.testing.assert_array_equal(found, nms_outputs["negative_batched_keep"])


@pytest.mark.parametrize("setting", ["nt0.3", "nt0.5", "sigma0.5", "sigma0.25"])
@pytest.mark.parametrize("score_threshold", ["0.001", "0.2"])
@pytest.mark.parametrize("per_class", [False, True])
def test_soft_nms_golden(nms_inputs, nms_outputs, setting, score_threshold, per_class):
    method = "linear" if setting.startswith("nt") else "gaussian"
    value = float(setting.removeprefix("nt").removeprefix("sigma"))
    found, decayed = suppression.soft_nms(
        nms_inputs["soft_boxes"],
        nms_inputs["soft_scores"],
        method=method,
        score_threshold=float(score_threshold),
        classes=nms_inputs["soft_classes"] if per_class else None,
        **{"iou_threshold" if method == "linear" else "sigma": value},
    )
    key = f"soft_{method}_{setting}_thr{score_threshold}" + "_perclass" * per_class
    np.testing.assert_array_equal(found, nms_outputs[f"{key}_index"])
    np.testing.assert_allclose(decayed, nms_outputs[f"{key}_score"], atol=1e-6)


@st.composite
def scenes(draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes on a coarse or a fine grid, some empty or with swapped corners, with many ties."""
    count = draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    boxes = rng.integers(-8, 8, (count, 4)).astype(np.float32)
    if draw(st.booleans()):
        boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:])
    if draw(st.booleans()):
        boxes += rng.normal(0, 0.3, boxes.shape).astype(np.float32)
    scores = rng.integers(-2, 12, count).astype(np.float32) / 11
    return boxes, scores, rng.integers(0, draw(st.integers(1, 50)), count)


@settings(max_examples=150, deadline=None)
@given(scenes(), st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0]))
def test_numpy_and_torch_agree_index_for_index(scene, threshold):
    boxes, scores, classes = scene
    tensors = [torch.from_numpy(array) for array in scene]
    np.testing.assert_array_equal(
        suppression.nms(boxes, scores, threshold), ops.nms(*tensors[:2], threshold)
    )
    np.testing.assert_array_equal(
        suppression.batched_nms(boxes, scores, classes, threshold),
        ops.batched_nms(*tensors, threshold),
    )
    np.testing.assert_allclose(
        suppression.box_iou(boxes, boxes), ops.box_iou(*tensors[:1] * 2), atol=1e-5
    )
    for method in ("linear", "gaussian"):
        for per_class in (False, True):
            options = {"method": method, "iou_threshold": threshold}
            found = suppression.soft_nms(
                boxes, scores, classes=classes if per_class else None, **options
            )
            twin = ops.soft_nms(*tensors[:2], classes=tensors[2] if per_class else None, **options)
            np.testing.assert_array_equal(found[0], twin[0])
            np.testing.assert_allclose(found[1], twin[1], atol=1e-6)


def test_nms_of_thousands_of_boxes_equals_torch():
    rng = np.random.default_rng(3)
    corner = rng.random((4000, 2)) * 300
    boxes = np.concatenate([corner, corner + rng.random((4000, 2)) * 40], axis=1)
    scores = rng.integers(0, 50, 4000) / 50
    wanted = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4)
    assert 100 < len(wanted) < 3900
    np.testing.assert_array_equal(suppression.nms(boxes, scores, 0.4), wanted)


def test_nms_does_not_change_its_inputs():
    boxes, scores = np.array([[0.0, 0, 4, 4], [0, 0, 4, 3]]), np.array([0.9, 0.8])
    suppression.soft_nms(boxes, scores)
    assert scores.tolist() == [0.9, 0.8]


@pytest.mark.parametrize("name", ["nms", "batched_nms", "soft_nms"])
@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        (np.zeros((2, 5)), np.zeros(2), r"boxes of shape \[N, 4\], found \[2, 5\]"),
        (np.zeros((2, 4)), np.zeros(3), r"scores of shape \[2\], found \[3\]"),
        (np.zeros((2, 4)), [0, np.nan], "finite scores, found nan at index 1"),
        (np.full((1, 4), np.inf), [0], "finite boxes, found inf at index 0"),
    ],
)
def test_nms_names_bad_input(name, boxes, scores, message):
    extra = {"nms": (0.5,), "batched_nms": (np.zeros(len(boxes), int), 0.5), "soft_nms": ()}
    with pytest.raises(BoxError, match=message):
        getattr(suppression, name)(boxes, scores, *extra[name])


def test_nms_names_bad_settings():
    boxes, scores = np.zeros((2, 4)), np.zeros(2)
    with pytest.raises(BoxError, match=r"iou_threshold in \[0, 1\], found -1"):
        suppression.nms(boxes, scores, -1)
    with pytest.raises(BoxError, match=r"classes of shape \[2\], found \[1\]"):
        suppression.batched_nms(boxes, scores, [0], 0.5)
    with pytest.raises(BoxError, match="integer classes, found float64"):
        suppression.soft_nms(boxes, scores, classes=[0.0, 1.0])
    with pytest.raises(BoxError, match="'linear' or 'gaussian', found 'hard'"):
        suppression.soft_nms(boxes, scores, method="hard")
    with pytest.raises(BoxError, match="positive sigma, found nan"):
        suppression.soft_nms(boxes, scores, sigma=float("nan"))
    with pytest.raises(BoxError, match="score_threshold >= 0, found -1"):
        suppression.soft_nms(boxes, scores, score_threshold=-1)
