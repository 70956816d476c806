"""The accuracy of exported graphs, against that of the detector they were made of."""

from pathlib import Path

import numpy as np
import pytest

from owlkit import OwlDetector
from owlkit.errors import DatasetError
from owlkit.evaluation.exported import ExportedAccuracy
from owlkit.evaluation.predictions import PredictionSettings, predict_results
from owlkit.export import export_detector
from tests.evaluation.small_set import CATEGORY_IDS, NAMES, make_records, write_coco

# The small tokenizer spells most words, so the longest templates lose their ends.
pytestmark = pytest.mark.filterwarnings("ignore:.*is cut to the limit")


def test_results_are_those_of_the_detector(owlv2_folder: Path, tmp_path: Path) -> None:
    detector = OwlDetector.from_pretrained(owlv2_folder).eval()
    export_detector(detector, tmp_path / "exported")
    records = make_records(tmp_path / "images")
    annotations = write_coco(tmp_path / "truth.json", records)
    settings = PredictionSettings(templates="ensemble7", top_k=20, batch_size=2)
    accuracy = ExportedAccuracy(annotations, tmp_path / "images", settings=settings, max_images=4)
    found = accuracy.detect(tmp_path / "exported")
    expected = predict_results(
        detector, records[:4], NAMES, CATEGORY_IDS, settings=settings
    ).results
    keys = ("image_id", "category_id")
    assert [[each[key] for key in keys] for each in found] == [
        [each[key] for key in keys] for each in expected
    ]
    for name, tolerance in (("bbox", 1e-2), ("score", 1e-4)):
        np.testing.assert_allclose(
            [each[name] for each in found], [each[name] for each in expected], atol=tolerance
        )
    metrics = accuracy(tmp_path / "exported")
    assert 0 <= metrics["AP"] <= metrics["AP50"] <= 1
    with pytest.raises(DatasetError, match="--annotations"):
        ExportedAccuracy(tmp_path / "none.json", tmp_path)
