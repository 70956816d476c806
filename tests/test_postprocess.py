"""Selection, NMS and clipping in numpy: golden fixtures, torch twins and slow references."""

import tracemalloc
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from owlkit import ops, postprocess
from owlkit.calibration import Calibration
from owlkit.errors import BoxError, DetectionsError, QueryError
from owlkit.postprocess import Selection, select_pairs

THRESHOLDS = ["0.0", "0.3", "0.5", "0.7", "1.0"]


def detect(
    logits,
    boxes,
    *,
    names=None,
    image_size=(100, 100),
    source=None,
    calibrations=None,
    **options,
):
    logits = np.asarray(logits, dtype=np.float32)
    return postprocess.postprocess(
        logits,
        np.asarray(boxes, dtype=np.float32),
        names=[f"query {index}" for index in range(logits.shape[1])] if names is None else names,
        image_size=image_size,
        selection=Selection(**options),
        calibrations=calibrations,
        source=source,
    )


def logit(probability) -> np.ndarray:
    probability = np.asarray(probability, dtype=np.float64)
    return np.log(probability / (1 - probability)).astype(np.float32)


def sigmoid(logits) -> np.ndarray:
    return (1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))).astype(np.float32)


# The numpy forms of NMS


@pytest.fixture(scope="module")
def nms_inputs(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("09_nms") / "inputs.npz"))


@pytest.fixture(scope="module")
def nms_outputs(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("09_nms") / "outputs.npz"))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_nms_golden(nms_inputs, nms_outputs, threshold):
    boxes, scores, classes = (nms_inputs[name] for name in ("boxes", "scores", "classes"))
    found = postprocess.nms(boxes, scores, float(threshold))
    np.testing.assert_array_equal(found, nms_outputs[f"nms_{threshold}"])
    batched = postprocess.batched_nms(boxes, scores, classes, float(threshold))
    np.testing.assert_array_equal(batched, nms_outputs[f"batched_{threshold}"])


def test_nms_golden_large_and_negative(nms_inputs, nms_outputs):
    boxes, scores = nms_inputs["large_boxes"], nms_inputs["large_scores"]
    found = postprocess.nms(boxes, scores, 0.5)
    np.testing.assert_array_equal(found, nms_outputs["large_nms_0.5"])
    found = postprocess.batched_nms(boxes, scores, nms_inputs["large_classes"], 0.5)
    np.testing.assert_array_equal(found, nms_outputs["large_batched_0.5"])
    found = postprocess.batched_nms(nms_inputs["negative_boxes"], [0.9, 0.8], [0, 1], 0.5)
    np.testing.assert_array_equal(found, nms_outputs["negative_batched_keep"])


@pytest.mark.parametrize("setting", ["nt0.3", "nt0.5", "sigma0.5", "sigma0.25"])
@pytest.mark.parametrize("score_threshold", ["0.001", "0.2"])
@pytest.mark.parametrize("per_class", [False, True])
def test_soft_nms_golden(nms_inputs, nms_outputs, setting, score_threshold, per_class):
    method = "linear" if setting.startswith("nt") else "gaussian"
    value = float(setting.removeprefix("nt").removeprefix("sigma"))
    found, decayed = postprocess.soft_nms(
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
        postprocess.nms(boxes, scores, threshold), ops.nms(*tensors[:2], threshold)
    )
    np.testing.assert_array_equal(
        postprocess.batched_nms(boxes, scores, classes, threshold),
        ops.batched_nms(*tensors, threshold),
    )
    np.testing.assert_allclose(
        postprocess.box_iou(boxes, boxes), ops.box_iou(*tensors[:1] * 2), atol=1e-5
    )
    for method in ("linear", "gaussian"):
        for per_class in (False, True):
            options = {"method": method, "iou_threshold": threshold}
            found = postprocess.soft_nms(
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
    np.testing.assert_array_equal(postprocess.nms(boxes, scores, 0.4), wanted)


def test_nms_does_not_change_its_inputs():
    boxes, scores = np.array([[0.0, 0, 4, 4], [0, 0, 4, 3]]), np.array([0.9, 0.8])
    postprocess.soft_nms(boxes, scores)
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
        getattr(postprocess, name)(boxes, scores, *extra[name])


def test_nms_names_bad_settings():
    boxes, scores = np.zeros((2, 4)), np.zeros(2)
    with pytest.raises(BoxError, match=r"iou_threshold in \[0, 1\], found -1"):
        postprocess.nms(boxes, scores, -1)
    with pytest.raises(BoxError, match=r"classes of shape \[2\], found \[1\]"):
        postprocess.batched_nms(boxes, scores, [0], 0.5)
    with pytest.raises(BoxError, match="integer classes, found float64"):
        postprocess.soft_nms(boxes, scores, classes=[0.0, 1.0])
    with pytest.raises(BoxError, match="'linear' or 'gaussian', found 'hard'"):
        postprocess.soft_nms(boxes, scores, method="hard")
    with pytest.raises(BoxError, match="positive sigma, found nan"):
        postprocess.soft_nms(boxes, scores, sigma=float("nan"))
    with pytest.raises(BoxError, match="score_threshold >= 0, found -1"):
        postprocess.soft_nms(boxes, scores, score_threshold=-1)


# Selection of (patch, query) pairs


@pytest.mark.parametrize("model", ["owlvit", "owlv2"])
@pytest.mark.parametrize("image", [0, 1])
def test_one_label_per_box_matches_hugging_face(golden, model, image):
    post = np.load(golden("02b_owl_processing") / f"post_{model}.npz")
    outputs = np.load(golden({"owlvit": "01_owlvit", "owlv2": "02_owlv2"}[model]) / "outputs.npz")
    centre, size = np.split(outputs["pred_boxes"][image].astype(np.float64), 2, axis=1)
    height, width = post["target_sizes"][image]
    scale = [width, height] * 2 if model == "owlvit" else max(height, width)
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1) * scale
    logits, threshold = outputs["logits"][image], float(post["grounded_threshold"])

    scores, patches, queries = select_pairs(logits, threshold=threshold, one_label_per_box=True)
    by_patch = np.argsort(patches)
    wanted = {
        name: post[f"grounded_abs_{image}_{name}"]
        for name in ("scores", "labels", "boxes", "text_labels")
    }
    np.testing.assert_allclose(scores[by_patch], wanted["scores"], rtol=1e-5)
    np.testing.assert_array_equal(queries[by_patch], wanted["labels"])
    np.testing.assert_allclose(boxes[patches[by_patch]], wanted["boxes"], atol=1e-3)

    found = detect(
        logits,
        boxes,
        names=[f"img{image} label{index}" for index in range(logits.shape[1])],
        image_size=(int(height), int(width)),
        threshold=threshold,
        one_label_per_box=True,
    )
    order = np.argsort(-wanted["scores"], kind="stable")
    clipped = np.clip(wanted["boxes"][order], 0, np.array([width, height] * 2))
    assert not np.array_equal(clipped, wanted["boxes"][order]), "some boxes reach outside"
    # Theirs keeps what lies wholly outside, as owlv2's padding.
    visible = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    np.testing.assert_allclose(found.boxes, clipped[visible], atol=1e-3)
    assert found.names == tuple(wanted["text_labels"][order][visible])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    patch_count=st.integers(0, 9),
    query_count=st.integers(0, 5),
    threshold=st.sampled_from([0.0, 1e-30, 0.1, 0.3, 0.5, 0.75, 0.999, 1.0]),
    top_k=st.none() | st.integers(1, 12),
    one_label=st.booleans(),
    per_query=st.booleans(),
)
def test_select_pairs_equals_a_loop(
    seed, patch_count, query_count, threshold, top_k, one_label, per_query
):
    rng = np.random.default_rng(seed)
    logits = logit(rng.integers(1, 12, (patch_count, query_count)) / 12)
    logits[rng.random(logits.shape) < 0.1] = rng.choice([-1e6, -3e38, -200, 90])
    limits = np.full(query_count, threshold)
    if per_query:
        limits = rng.choice([0.0, threshold, 0.5, 1.0], query_count)
    scores = sigmoid(np.maximum(logits, -700))
    pairs = []
    for patch in range(patch_count):
        queries = [int(logits[patch].argmax())] if one_label and query_count else range(query_count)
        for query in queries:
            limit = np.float32(limits[query])
            if logits[patch, query] > -1e6 and (scores[patch, query] > limit or limit == 0):
                pairs.append((-scores[patch, query], patch, query))
    pairs = sorted(pairs)[:top_k]
    found = select_pairs(
        logits,
        threshold=limits if per_query else threshold,
        top_k=top_k,
        one_label_per_box=one_label,
    )
    assert [array.dtype for array in found] == [np.float32, np.int64, np.int64]
    assert [(-s, p, q) for s, p, q in zip(*found, strict=True)] == pairs


def test_threshold_is_strict_at_the_returned_score():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (50, 7)).astype(np.float32)
    scores, _, _ = select_pairs(logits, threshold=0.0)
    assert len(scores) == 350
    for rank in (0, 17, 200, 349):
        kept, _, _ = select_pairs(logits, threshold=float(scores[rank]))
        np.testing.assert_array_equal(kept, scores[scores > scores[rank]])
        just_below = float(np.nextafter(scores[rank], np.float32(0)))
        kept, _, _ = select_pairs(logits, threshold=just_below)
        np.testing.assert_array_equal(kept, scores[scores >= scores[rank]])


def test_probability_of_exactly_the_threshold_is_dropped():
    assert len(select_pairs(np.zeros((1, 1)), threshold=0.5)[0]) == 0
    above = np.full((1, 1), 1e-6)
    assert len(select_pairs(above, threshold=0.5)[0]) == 1


@pytest.mark.parametrize("mask", [-1e6, -1e9, np.finfo(np.float32).min, -np.inf])
def test_threshold_zero_keeps_all_but_masked_logits(mask):
    logits = np.array([[mask, -1000.0], [-200.0, 3.0]], dtype=np.float32)
    scores, patches, queries = select_pairs(logits, threshold=0)
    assert list(zip(patches, queries, strict=True)) == [(1, 1), (0, 1), (1, 0)]
    assert scores.tolist() == [pytest.approx(0.9525741), 0, 0]


def test_threshold_one_keeps_nothing():
    assert len(select_pairs(np.array([[np.inf, 1e30, 50.0]]), threshold=1.0)[0]) == 0


def test_top_k_with_ties_takes_the_lowest_positions():
    logits = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    _, patches, queries = select_pairs(logits, threshold=0.1, top_k=4)
    assert list(zip(patches, queries, strict=True)) == [(0, 1), (1, 2), (0, 0), (0, 2)]


def test_one_threshold_per_query():
    logits = logit([[0.3, 0.3], [0.6, 0.6]])
    _, patches, queries = select_pairs(logits, threshold=[0.5, 0.2])
    assert list(zip(patches, queries, strict=True)) == [(1, 0), (1, 1), (0, 1)]
    # The best query of a box must pass its own threshold; the second best does not step in.
    logits = logit([[0.4, 0.3]])
    assert len(select_pairs(logits, threshold=[0.5, 0.2], one_label_per_box=True)[0]) == 0


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), [0.5, 2.0], "high", [[0.5]]])
def test_bad_thresholds_are_refused(threshold):
    with pytest.raises(QueryError, match="threshold"):
        select_pairs(np.zeros((3, 2)), threshold=threshold)
    with pytest.raises(QueryError, match="threshold"):
        Selection(threshold=threshold)


def test_select_pairs_names_bad_input():
    with pytest.raises(QueryError, match="expected 2 thresholds, one per query, found 3"):
        select_pairs(np.zeros((3, 2)), threshold=[0.1, 0.2, 0.3])
    with pytest.raises(DetectionsError, match=r"shape \[P, Q\], found \[4\]"):
        select_pairs(np.zeros(4), threshold=0.1)
    with pytest.raises(DetectionsError, match=r"without NaN, found one at \[1, 0\]"):
        select_pairs(np.array([[0.0], [np.nan]]), threshold=0.1)
    for top_k in (0, -1, 2.5):
        with pytest.raises(QueryError, match="top_k"):
            select_pairs(np.zeros((3, 2)), threshold=0.1, top_k=top_k)


@st.composite
def calibrations(draw) -> Calibration | None:
    """Maps with exact answers at multiples of 1/4, flat parts among them, or plain ones."""
    kind = draw(st.sampled_from(["none", "linear", "isotonic"]))
    if kind == "none":
        return None
    if kind == "linear":
        return Calibration.linear(
            draw(st.sampled_from([0.5, 1.0, 2.0])), draw(st.sampled_from([-1.0, 0.0, 0.5]))
        )
    widths = draw(st.lists(st.sampled_from([1, 2, 4]), max_size=5))
    steps = draw(st.lists(st.sampled_from([0, 0, 1, 2, 3]), min_size=1 + len(widths), max_size=6))
    return Calibration.isotonic(np.cumsum([-4, *widths]), np.cumsum(steps)[: 1 + len(widths)] / 18)


def slow_score(calibration, value) -> np.float32:
    if calibration is None or not calibration.knots:
        one = calibration or Calibration()
        with np.errstate(over="ignore"):
            return np.float32(1 / (1 + np.exp(-(np.float64(value) * one.scale + one.bias))))
    return np.float32(np.interp(np.float64(value), *zip(*calibration.knots, strict=True)))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    patch_count=st.integers(0, 12),
    maps=st.lists(calibrations(), max_size=5) | calibrations().map(lambda one: [one] * 4),
    threshold=st.sampled_from([0.0, 0.1, 2 / 9, 0.5, 1.0]),
    top_k=st.none() | st.integers(1, 12),
    one_label=st.booleans(),
    per_query=st.booleans(),
    block=st.sampled_from([1, 11, 2**17]),
)
def test_calibrated_pairs_equal_a_loop(
    seed, patch_count, maps, threshold, top_k, one_label, per_query, block
):
    rng = np.random.default_rng(seed)
    logits = (rng.integers(-24, 24, (patch_count, len(maps))) / 4).astype(np.float32)
    logits[rng.random(logits.shape) < 0.15] = rng.choice([-1e6, -3e38, -1000, 90])
    visible = rng.random(patch_count) < 0.9
    limits = np.full(len(maps), threshold, dtype=np.float32)
    if per_query:
        limits = rng.choice([0.0, threshold, 0.5, 1.0], len(maps)).astype(np.float32)
    # As documented, equal scores go by their logits only if there are calibrations.
    by_logit = any(one is not None for one in maps)
    pairs = []
    for patch in np.flatnonzero(visible):
        found = [
            (-slow_score(one, logits[patch, query]), -logits[patch, query], int(patch), query)
            for query, one in enumerate(maps)
            if logits[patch, query] > -1e6
        ]
        if one_label:
            found = sorted(found)[:1]
        pairs += [pair for pair in found if -pair[0] > limits[pair[3]] or limits[pair[3]] == 0]
    pairs = sorted(pairs, key=lambda pair: pair if by_logit else (pair[0], *pair[2:]))[:top_k]
    with mock.patch.object(postprocess, "_BLOCK", block):
        scores, patches, queries = select_pairs(
            logits,
            threshold=limits if per_query else threshold,
            top_k=top_k,
            one_label_per_box=one_label,
            calibrations=maps,
            visible=visible,
        )
    assert list(zip(patches, queries, strict=True)) == [pair[2:] for pair in pairs]
    np.testing.assert_allclose(scores, [-pair[0] for pair in pairs], rtol=1e-7)


def test_thousands_of_pairs_in_blocks_equal_one_sort():
    rng = np.random.default_rng(5)
    logits = rng.normal(-2, 3, (700, 130)).astype(np.float32)
    scores = sigmoid(logits).ravel()
    order = np.argsort(-scores, kind="stable")
    for threshold, top_k in ((0.0, 300), (0.4, None), (0.4, 90_000), (0.999, 300)):
        wanted = order[: (scores > threshold).sum()][:top_k]
        with mock.patch.object(postprocess, "_BLOCK", 1000):
            found = select_pairs(logits, threshold=threshold, top_k=top_k)
        np.testing.assert_array_equal(found[1] * 130 + found[2], wanted)
        np.testing.assert_array_equal(found[0], scores[wanted])


def test_selection_copies_no_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(-9, 1.5, (900, 1203)).astype(np.float32)
    before = logits.copy()
    boxes = np.tile(np.array([[0, 0, 10, 10]], dtype=np.float32), (900, 1))
    boxes[::7] -= 50
    shared = [Calibration.linear(0.9)] * 1203
    different = [Calibration.linear(0.9 - query / 1e4) for query in range(1203)]
    for maps in (None, shared, different):
        for options in ({}, {"one_label_per_box": True}, {"threshold": [0.1] * 1203}):
            tracemalloc.start()
            detect(logits, boxes, calibrations=maps, nms_iou=0.5, **options)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < logits.nbytes / 2
    np.testing.assert_array_equal(logits, before)


def test_select_pairs_refuses_what_does_not_fit():
    with pytest.raises(QueryError, match="expected 2 calibrations, one per query, found 1"):
        select_pairs(np.zeros((3, 2)), threshold=0.1, calibrations=[None])
    with pytest.raises(DetectionsError, match="expected visible as 3 booleans"):
        select_pairs(np.zeros((3, 2)), threshold=0.1, visible=np.ones(2, dtype=bool))


# The composition

STACK = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [50, 50, 60, 60]]


def test_without_nms_every_pair_is_a_detection():
    found = detect(logit([[0.9, 0.2], [0.3, 0.8]]), STACK[:2], names=["cat", "dog"], threshold=0.25)
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.3], rtol=1e-6)
    assert found.labels.tolist() == [0, 1, 0]
    assert found.names == ("cat", "dog", "cat")
    assert found.boxes.tolist() == [STACK[0], STACK[1], STACK[1]]
    assert found.image_size == (100, 100)


def test_nms_works_per_query_unless_class_agnostic():
    logits = logit([[0.9, 0.2], [0.7, 0.8], [0.6, 0.1], [0.3, 0.1]])
    found = detect(logits, STACK, threshold=0.15, nms_iou=0.5)
    assert list(zip(found.boxes[:, 3], found.labels, strict=True)) == [(10, 0), (9, 1), (60, 0)]
    found = detect(logits, STACK, threshold=0.15, nms_iou=0.5, class_agnostic=True)
    assert found.boxes[:, 3].tolist() == [10, 60]


def test_top_k_counts_survivors_of_nms():
    # Cutting to the two best before NMS would leave one detection.
    logits = logit([[0.9], [0.8], [0.7], [0.3]])
    found = detect(logits, STACK, nms_iou=0.5, top_k=2)
    assert found.boxes[:, 3].tolist() == [10, 60]
    assert len(detect(logits, STACK, top_k=3)) == 3
    assert len(detect(logits, STACK, soft_nms="gaussian", threshold=0.0, top_k=3)) == 3


def test_an_nms_iou_of_zero_is_not_off():
    logits = logit([[0.9], [0.8]])
    assert len(detect(logits, [[0, 0, 10, 10], [9, 9, 19, 19]], nms_iou=0.0)) == 1


def test_soft_nms_lowers_scores_and_drops_what_falls_to_the_threshold():
    logits = logit([[0.9], [0.8], [0.7], [0.3]])
    found = detect(logits, STACK, soft_nms="linear", threshold=0.05)
    # IoU with the first: 0.9 and 0.8; the second falls to 0.8 * 0.1 and below by the third.
    np.testing.assert_allclose(found.scores, [0.9, 0.3, 0.7 * 0.2], rtol=1e-5)
    assert found.boxes[:, 3].tolist() == [10, 60, 8]
    # With nms_iou above the overlaps nothing is lowered.
    found = detect(logits, STACK, soft_nms="linear", nms_iou=0.95)
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.7, 0.3], rtol=1e-6)


def test_soft_nms_applies_the_threshold_of_each_query():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5]]
    logits = logit([[0.9, 0.9], [0.8, 0.8]])
    found = detect(logits, boxes, soft_nms="linear", threshold=[0.3, 0.6])
    assert list(zip(found.labels, found.boxes[:, 3], strict=True)) == [(0, 10), (1, 10), (0, 5)]
    np.testing.assert_allclose(found.scores, [0.9, 0.9, 0.4], rtol=1e-6)
    found = detect(logits, boxes, soft_nms="linear", threshold=[0.01, 0.01], class_agnostic=True)
    assert found.scores[1] == pytest.approx(0.4), "query 0 lowers query 1 too"


def test_thresholds_and_ranks_are_of_calibrated_scores():
    # Query 1 is overconfident: its logits say more than query 0's, its probabilities less.
    maps = [None, Calibration.linear(1, -2)]
    logits = logit([[0.6, 0.8], [0.3, 0.9]])
    found = detect(logits, STACK[:2], calibrations=maps, threshold=0.35)
    np.testing.assert_allclose(found.scores, [0.6, sigmoid(np.log(9) - 2), sigmoid(np.log(4) - 2)])
    assert found.labels.tolist() == [0, 1, 1]
    found = detect(logits, STACK[:2], calibrations=maps, nms_iou=0.5, class_agnostic=True)
    assert (found.labels.tolist(), found.boxes[:, 3].tolist()) == ([0], [10])
    found = detect(logits, STACK[:2], calibrations=maps, one_label_per_box=True)
    assert found.labels.tolist() == [0, 1]
    found = detect(logits, STACK[:2], calibrations=maps, soft_nms="linear", threshold=0.033)
    # By IoU 0.9: query 1 keeps a tenth of 0.35, query 0 of 0.3.
    np.testing.assert_allclose(found.scores[2:], [sigmoid(np.log(4) - 2) / 10], rtol=1e-5)


def test_boxes_of_one_calibrated_score_compete_by_their_logits():
    flat = Calibration.isotonic([-1.0, 0.0], [0.2, 0.7])
    found = detect([[1.0], [3.0], [2.0], [0.0]], STACK, calibrations=[flat], nms_iou=0.5)
    assert found.boxes[:, 3].tolist() == [9, 60]
    np.testing.assert_allclose(found.scores, [0.7, 0.7], rtol=1e-6)
    assert detect([[1.0], [3.0]], STACK[:2], calibrations=[flat], top_k=1).boxes[0, 3] == 9


def test_calibration_lets_no_masked_query_through():
    flat = Calibration.isotonic([0.0], [0.5])
    logits = np.array([[-1e6, 1.0], [-np.inf, -9.0]])
    for options in ({}, {"one_label_per_box": True}):
        found = detect(logits, STACK[:2], calibrations=[flat, None], threshold=0.0, **options)
        assert found.labels.tolist() == [1, 1]


def test_box_fusion_averages_what_overlaps():
    logits = logit([[0.9, 0.2], [0.6, 0.8], [0.3, 0.1], [0.3, 0.1]])
    found = detect(logits, STACK, threshold=0.15, box_fusion=True)
    # Query 0: the first three, query 1: the first two, and the last alone.
    np.testing.assert_allclose(found.scores, [0.6, 0.5, 0.3], rtol=1e-6)
    assert found.labels.tolist() == [0, 1, 0]
    heights = [(10 * 0.9 + 9 * 0.6 + 8 * 0.3) / 1.8, (10 * 0.2 + 9 * 0.8) / 1.0, 60]
    np.testing.assert_allclose(found.boxes[:, 3], heights, rtol=1e-6)
    assert len(detect(logits, STACK, threshold=0.15, box_fusion=True, nms_iou=0.95)) == 6
    assert len(detect(logits, STACK, threshold=0.15, box_fusion=True, top_k=2)) == 2


def test_a_fused_box_must_pass_the_threshold_of_its_label():
    logits = logit([[0.9, 0.1], [0.1, 0.3]])
    options = {"box_fusion": True, "class_agnostic": True}
    found = detect(logits, STACK[:2], threshold=[0.5, 0.2], **options)
    np.testing.assert_allclose(found.scores, [0.6], rtol=1e-6)
    assert found.names == ("query 0",)
    assert len(detect(logits, STACK[:2], threshold=[0.7, 0.2], **options)) == 0


def test_boxes_are_clipped_before_they_are_compared():
    # Outside the image these two differ (IoU 0.29); what is visible of them is the same.
    boxes = [[-100, 0, 10, 10], [-20, 0, 10, 10], [0, 20, 5, 25]]
    found = detect(logit([[0.9], [0.8], [0.7]]), boxes, image_size=(30, 40), nms_iou=0.5)
    assert found.boxes.tolist() == [[0, 0, 10, 10], [0, 20, 5, 25]]


def test_boxes_without_area_in_the_image_are_no_detections():
    boxes = [[500, 0, 600, 9], [0, -9, 20, 0], [2, 3, 2, 9], [0, 0, 10, 10], [35, 25, 60, 60]]
    logits = logit([[0.9], [0.8], [0.7], [0.6], [0.5]])
    found = detect(logits, boxes, image_size=(30, 40), top_k=2)
    assert found.boxes.tolist() == [[0, 0, 10, 10], [35, 25, 40, 30]], "the best two that remain"


def test_masked_queries_and_empty_inputs_give_no_detections():
    for logits in (np.full((4, 2), -1e6), np.zeros((0, 2)), np.zeros((4, 0))):
        for options in (
            {},
            {"nms_iou": 0.5},
            {"soft_nms": "linear"},
            {"box_fusion": True},
            {"one_label_per_box": True},
            {"calibrations": [Calibration.linear(2)] * logits.shape[1]},
        ):
            found = detect(logits, np.zeros((len(logits), 4)), threshold=0.0, **options)
            assert len(found) == 0
            assert found.image_size == (100, 100)


def test_source_is_passed_on():
    assert detect(np.zeros((0, 1)), np.zeros((0, 4)), source="photo.jpg").source == "photo.jpg"


def test_defaults_are_used_without_a_selection():
    found = postprocess.postprocess(
        logit([[0.2], [0.05]]), np.full((2, 4), [0, 0, 1, 1]), names=["cat"], image_size=(5, 5)
    )
    assert len(found) == 1


def test_postprocess_names_what_does_not_fit():
    with pytest.raises(DetectionsError, match=r"boxes \[3, 4\], found \[2, 4\]"):
        detect(np.zeros((3, 1)), np.zeros((2, 4)))
    with pytest.raises(QueryError, match="expected 1 names, one per query, found 2"):
        detect(np.zeros((2, 1)), np.zeros((2, 4)), names=["cat", "dog"])
    with pytest.raises(DetectionsError, match="finite boxes"):
        detect(np.zeros((1, 1)), np.full((1, 4), np.nan))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nms_iou": 1.5}, r"nms_iou in \[0, 1\] or None, found 1.5"),
        ({"nms_iou": float("nan")}, "found nan"),
        ({"nms_iou": "0.5"}, r"nms_iou in \[0, 1\] or None, found '0.5'"),
        ({"nms_iou": [0.5, 0.6]}, "found "),
        ({"soft_nms": "hard"}, "found 'hard'"),
        ({"soft_nms": "linear", "box_fusion": True}, "soft_nms or box_fusion, found both"),
        ({"top_k": 0}, "top_k to be an integer of at least 1 or None, found 0"),
    ],
)
def test_selection_is_checked_at_birth(options, message):
    with pytest.raises(QueryError, match=message):
        Selection(**options)


def test_selections_can_be_compared_and_hashed():
    per_query = Selection(threshold=np.array([0.1, 0.5]))
    assert per_query == Selection(threshold=[0.1, 0.5])
    assert hash(per_query) == hash(Selection(threshold=(0.1, 0.5)))
    assert per_query != Selection(threshold=0.1)
