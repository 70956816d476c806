"""From logits to detections: golden fixtures, and what the parts do together."""

import tracemalloc

import numpy as np
import pytest

from owlkit import postprocess
from owlkit.calibration import Calibration
from owlkit.errors import DetectionsError, QueryError
from owlkit.postprocess import Selection, select_pairs

STACK = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [50, 50, 60, 60]]


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
