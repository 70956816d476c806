"""The slicer of `supervision` runs a predictor."""

import numpy as np
import pytest
import supervision

import owlkit
from owlkit.queries import QuerySet
from owlkit.supervision_slicer import slicer_callback


@pytest.fixture(scope="module")
def predictor(owlv2_folder):
    return owlkit.Predictor.from_pretrained(owlv2_folder)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("bgr", [False, True])
def test_the_slicer_finds_what_the_predictor_finds_in_each_slice(predictor, batch_size, bgr):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    callback = slicer_callback(predictor, ["a cat", "a dog"], bgr=bgr, threshold=0.3)
    slicer = supervision.InferenceSlicer(
        callback,
        slice_wh=60,
        overlap_wh=0,
        overlap_filter=supervision.OverlapFilter.NONE,
        batch_size=batch_size,
    )
    sliced = slicer(image[..., ::-1] if bgr else image)
    expected = []
    for y, x in ((0, 0), (0, 60), (60, 0), (60, 60)):
        found = predictor.detect(image[y : y + 60, x : x + 60], ["a cat", "a dog"], threshold=0.3)
        expected.append((found.boxes + np.array([x, y, x, y]), found.scores, found.names))
    boxes, scores, names = zip(*expected, strict=True)
    assert len(sliced) == sum(map(len, scores)) > 0
    order, wanted = np.argsort(sliced.confidence), np.argsort(np.concatenate(scores))
    np.testing.assert_allclose(sliced.xyxy[order], np.concatenate(boxes)[wanted], atol=1e-3)
    np.testing.assert_allclose(sliced.confidence[order], np.concatenate(scores)[wanted], atol=1e-6)
    assert sliced.data["class_name"][order].tolist() == np.concatenate(names)[wanted].tolist()


def test_options_reach_the_predictor():
    calls = []

    class Recorder:
        def detect(self, images, queries, **options):
            calls.append((queries, options))
            return owlkit.Detections.empty()

    image = np.zeros((4, 4, 3), np.uint8)
    callback = slicer_callback(Recorder(), ["cat"], templates="ensemble7", nms_iou=0.4)
    assert len(callback(image)) == 0
    queries = QuerySet.from_text(["cat"], templates="ensemble7")
    assert calls == [(queries, {"nms_iou": 0.4})]
    slicer_callback(Recorder(), queries)(image)
    assert calls[1][0] is queries
