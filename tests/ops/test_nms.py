"""NMS against the golden fixture, torchvision and slow references written here."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from owlkit.errors import BoxError
from owlkit.ops import batched_nms, nms, soft_nms

THRESHOLDS = ["0.0", "0.3", "0.5", "0.7", "1.0"]


@pytest.fixture(scope="module")
def inputs(golden) -> dict[str, torch.Tensor]:
    stored = np.load(golden("09_nms") / "inputs.npz")
    return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def expected(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("09_nms") / "outputs.npz"))


def exact_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


def slow_nms(boxes: list, scores: list, classes: list, threshold: float) -> list[int]:
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda row: (-scores[row], row)):
        rivals = [other for other in kept if classes[other] == classes[row]]
        if all(exact_iou(boxes[row], boxes[other]) <= threshold for other in rivals):
            kept.append(row)
    return kept


@st.composite
def scenes(draw) -> tuple[list, list, list]:
    """Boxes on a coarse grid, some negative, some empty, with many ties."""
    count = draw(st.integers(0, 40))
    corner, side = st.integers(-6, 6), st.integers(0, 5)
    places = draw(st.lists(st.tuples(corner, corner, side, side), min_size=count, max_size=count))
    boxes = [[float(v) for v in (x, y, x + w, y + h)] for x, y, w, h in places]
    rows = {"min_size": count, "max_size": count}
    scores = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, -2.0, -0.0]), **rows))
    classes = draw(st.lists(st.sampled_from([0, 1, 7, 10**9]), **rows))
    return boxes, scores, classes


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_golden(inputs, expected, threshold):
    boxes, scores, classes = (inputs[name] for name in ("boxes", "scores", "classes"))
    found = nms(boxes, scores, float(threshold))
    np.testing.assert_array_equal(found, expected[f"nms_{threshold}"])
    batched = batched_nms(boxes, scores, classes, float(threshold))
    np.testing.assert_array_equal(batched, expected[f"batched_{threshold}"])


def test_golden_large(inputs, expected):
    boxes, scores = inputs["large_boxes"], inputs["large_scores"]
    np.testing.assert_array_equal(nms(boxes, scores, 0.5), expected["large_nms_0.5"])
    found = batched_nms(boxes, scores, inputs["large_classes"], 0.5)
    np.testing.assert_array_equal(found, expected["large_batched_0.5"])


def test_far_apart_boxes_with_negative_coordinates_both_stay(inputs, expected):
    # torchvision's coordinate offset moves these two boxes onto each other.
    scores, classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    found = batched_nms(inputs["negative_boxes"], scores, classes, 0.5)
    np.testing.assert_array_equal(found, expected["negative_batched_keep"])


def test_small_boxes_of_a_high_class_are_compared_exactly():
    # With an offset per class, float32 has no digits left for boxes of this size.
    tiny = torch.tensor([[0.0, 0, 2e-6, 2e-6], [1e-6, 0, 3e-6, 2e-6], [0.0, 0, 1, 1]])
    classes, scores = torch.tensor([1_000_000, 1_000_000, 0]), torch.tensor([0.9, 0.8, 0.7])
    assert batched_nms(tiny, scores, classes, 0.5).tolist() == [0, 1, 2]
    assert batched_nms(tiny, scores, classes, 0.3).tolist() == [0, 2]


def test_iou_equal_to_the_threshold_survives():
    # In float32 the IoU 3/10 is larger than 0.3.
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.3).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.2999).tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(scenes(), st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 1.0]))
def test_equals_the_slow_reference(scene, threshold):
    boxes, scores, classes = scene
    tensors = torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores).reshape(-1)
    assert nms(*tensors, threshold).tolist() == slow_nms(boxes, scores, [0] * 40, threshold)
    found = batched_nms(*tensors, torch.tensor(classes, dtype=torch.int64), threshold)
    assert found.tolist() == slow_nms(boxes, scores, classes, threshold)


def test_equals_torchvision_on_random_boxes():
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(500, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 20 * torch.rand(500, 2, generator=generator)], dim=1)
    scores = torch.rand(500, generator=generator)
    for threshold in (0.1, 0.5):
        wanted = torchvision.ops.nms(boxes, scores, threshold)
        assert nms(boxes, scores, threshold).tolist() == wanted.tolist()


@pytest.mark.parametrize("setting", ["nt0.3", "nt0.5", "sigma0.5", "sigma0.25"])
@pytest.mark.parametrize("score_threshold", ["0.001", "0.2"])
@pytest.mark.parametrize("per_class", [False, True])
def test_soft_golden(inputs, expected, setting, score_threshold, per_class):
    linear = setting.startswith("nt")
    value = float(setting.removeprefix("nt").removeprefix("sigma"))
    found, decayed = soft_nms(
        inputs["soft_boxes"],
        inputs["soft_scores"],
        method="linear" if linear else "gaussian",
        score_threshold=float(score_threshold),
        classes=inputs["soft_classes"] if per_class else None,
        **({"iou_threshold": value} if linear else {"sigma": value}),
    )
    method = "linear" if linear else "gaussian"
    key = f"soft_{method}_{setting}_thr{score_threshold}" + "_perclass" * per_class
    np.testing.assert_array_equal(found, expected[f"{key}_index"])
    np.testing.assert_allclose(decayed, expected[f"{key}_score"], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(scenes(), st.sampled_from(["linear", "gaussian"]))
def test_soft_nms_per_class_is_soft_nms_of_each_class(scene, method):
    boxes, scores, classes = scene
    boxes = torch.tensor(boxes).reshape(-1, 4)
    scores, classes = torch.tensor(scores).double(), torch.tensor(classes, dtype=torch.int64)
    found, decayed = soft_nms(boxes, scores, method=method, classes=classes)
    assert all(first >= second for first, second in pairwise(decayed.tolist()))
    result = dict(zip(found.tolist(), decayed.tolist(), strict=True))
    wanted = {}
    for one in set(classes.tolist()):
        members = (classes == one).nonzero().squeeze(1)
        index, score = soft_nms(boxes[members], scores[members], method=method)
        wanted |= dict(zip(members[index].tolist(), score.tolist(), strict=True))
    assert result == wanted


def test_soft_nms_of_equal_boxes_keeps_the_first():
    boxes = torch.tensor([[0.0, 0, 4, 4]] * 3)
    found, decayed = soft_nms(boxes, torch.full((3,), 0.5))
    assert found.tolist() == [0], "an IoU of 1 leaves a score of 0"
    assert decayed.dtype == torch.float32
    found, decayed = soft_nms(boxes, torch.full((3,), 0.5), method="gaussian", sigma=1.0)
    factor = np.exp(-1)
    assert found.tolist() == [0, 1, 2]
    np.testing.assert_allclose(decayed, [0.5, 0.5 * factor, 0.5 * factor**2], rtol=1e-6)


def test_inputs_are_not_changed_and_gradients_do_not_matter():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3]], requires_grad=True)
    scores = torch.tensor([0.9, 0.8], requires_grad=True)
    found, decayed = soft_nms(boxes, scores)
    assert scores.tolist() == pytest.approx([0.9, 0.8])
    assert not decayed.requires_grad
    assert nms(boxes, scores, 0.5).tolist() == [0]
    assert found.tolist() == [0, 1]


def test_no_boxes():
    none, scores, classes = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    for kept in (nms(none, scores, 0.5), batched_nms(none, scores, classes, 0.5)):
        assert kept.shape == (0,)
        assert kept.dtype == torch.int64
    for given_classes in (None, classes):
        kept, decayed = soft_nms(none, scores, classes=given_classes)
        assert kept.shape == decayed.shape == (0,)


FUNCTIONS = {
    "nms": lambda boxes, scores: nms(boxes, scores, 0.5),
    "batched": lambda boxes, scores: batched_nms(boxes, scores, torch.zeros(len(boxes)).int(), 0.5),
    "soft": soft_nms,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(2), r"boxes of shape \[N, 4\], found \[2, 5\]"),
        (torch.zeros(4), torch.zeros(4), r"found \[4\]"),
        (torch.zeros(2, 4), torch.zeros(3), r"scores of shape \[2\], found \[3\]"),
        (torch.zeros(2, 4), torch.zeros(2, 1), r"scores of shape \[2\], found \[2, 1\]"),
        (torch.zeros(2, 4), torch.tensor([0, torch.nan]), "finite scores, found nan at index 1"),
        (torch.zeros(2, 4), torch.tensor([torch.inf, 0]), "finite scores, found inf at index 0"),
        (torch.full((1, 4), torch.nan), torch.zeros(1), "finite boxes, found nan at index 0"),
    ],
)
def test_bad_boxes_and_scores_are_named(name, boxes, scores, message):
    with pytest.raises(BoxError, match=message):
        FUNCTIONS[name](boxes, scores)


def test_bad_settings_are_named():
    boxes, scores = torch.rand(2, 4), torch.rand(2)
    with pytest.raises(BoxError, match=r"iou_threshold in \[0, 1\], found 1.5"):
        nms(boxes, scores, 1.5)
    with pytest.raises(BoxError, match="found nan"):
        batched_nms(boxes, scores, torch.zeros(2).int(), float("nan"))
    with pytest.raises(BoxError, match=r"classes of shape \[2\], found \[3\]"):
        batched_nms(boxes, scores, torch.zeros(3).int(), 0.5)
    with pytest.raises(BoxError, match="integer classes"):
        soft_nms(boxes, scores, classes=torch.zeros(2))
    with pytest.raises(BoxError, match="'linear' or 'gaussian', found 'hard'"):
        soft_nms(boxes, scores, method="hard")
    with pytest.raises(BoxError, match="positive sigma, found 0"):
        soft_nms(boxes, scores, method="gaussian", sigma=0)
    with pytest.raises(BoxError, match="score_threshold >= 0"):
        soft_nms(boxes, scores, score_threshold=-0.1)
