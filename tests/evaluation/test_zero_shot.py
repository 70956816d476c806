"""Classification metrics equal those of the peers, and say what they mean in the corner cases."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from owlkit.errors import DatasetError
from owlkit.evaluation.plots import draw_confusion
from owlkit.evaluation.zero_shot import (
    average_prompts,
    classification_metrics,
    confusion_matrix,
    multilabel_average_precision,
    multilabel_metrics,
    per_class_recall,
    zero_shot_scores,
)

Arrays = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def peer(golden: Callable[[str], Path]) -> Arrays:
    folder = golden("10_knn_retrieval")
    files = [np.load(folder / f"{name}.npz") for name in ("inputs", "outputs")]
    return {key: torch.from_numpy(file[key]) for file in files for key in file.files}


def test_class_embeddings_and_scores_are_those_of_the_peer(peer: Arrays) -> None:
    classes = average_prompts(peer["zs_template_embeddings"])
    torch.testing.assert_close(classes.T, peer["zs_classifier"], atol=1e-6, rtol=0)
    scores = zero_shot_scores(peer["zs_image_features"], classes)
    torch.testing.assert_close(scores, peer["zs_logits"], atol=1e-4, rtol=0)


def test_metrics_are_those_of_the_peer(peer: Arrays) -> None:
    metrics = classification_metrics(peer["zs_logits"], peer["zs_labels"])
    assert sorted(metrics) == ["mean_per_class_recall", "top1", "top5"]
    for name, value in metrics.items():
        assert value == pytest.approx(float(peer[f"zs_{name}"]), abs=1e-6), name


def test_average_precision_is_that_of_the_peer(peer: Arrays) -> None:
    scores, targets = peer["zs_logits"], peer["multilabel_targets"]
    found = multilabel_average_precision(scores, targets)
    expected = peer["multilabel_ap_per_class"]
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=0)
    assert not targets[:, 0].any()
    assert found[0] == 0
    assert multilabel_metrics(scores, targets)["mAP"] == pytest.approx(float(expected[1:].mean()))


def test_prompts_of_any_length_count_alike() -> None:
    embeds = torch.tensor([[[3.0, 0.0], [0.0, 0.5]]])
    torch.testing.assert_close(average_prompts(embeds), torch.full((1, 2), 0.5**0.5))


def test_small_case_counted_by_hand() -> None:
    # Class 2 has no image. Of equal scores the lower class comes first: row 1 is right, row 2 not.
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.1], [0.5, 0.5, 0.1], [0.1, 0.2, 0.3]])
    labels = torch.tensor([0, 0, 1, 1])
    assert classification_metrics(scores, labels) == {
        "top1": 0.5,
        "top5": 1.0,
        "mean_per_class_recall": 0.5,
    }
    recalls = per_class_recall(scores, labels).tolist()
    assert recalls[:2] == [1.0, 0.0]
    assert np.isnan(recalls[2])
    assert confusion_matrix(scores, labels).tolist() == [[2, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_confusion_and_recalls_agree(peer: Arrays) -> None:
    scores, labels = peer["zs_logits"], peer["zs_labels"]
    confusion = confusion_matrix(scores, labels)
    assert confusion.sum() == len(labels)
    recalls = confusion.diagonal() / confusion.sum(dim=1)
    torch.testing.assert_close(per_class_recall(scores, labels), recalls.double(), equal_nan=True)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels below 3.*found 3"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "labels >= 0, found -1"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "integer labels"),
        (torch.zeros(2, 3), torch.tensor([0]), r"labels \[2\]"),
        (torch.zeros(0, 3), torch.tensor([], dtype=torch.int64), "scores"),
        (torch.full((1, 3), torch.nan), torch.tensor([0]), "found 3 NaN"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    scores: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    for measure in (classification_metrics, confusion_matrix, per_class_recall):
        with pytest.raises(DatasetError, match=message):
            measure(scores, labels)


def test_shapes_of_prompts_and_targets_are_checked() -> None:
    with pytest.raises(DatasetError, match=r"\[C, T, E\], found \[3, 4\]"):
        average_prompts(torch.zeros(3, 4))
    with pytest.raises(DatasetError, match=r"found \[2, 3\] and \[2, 4\]"):
        multilabel_average_precision(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("classes", [2, 60])
def test_confusion_is_drawn_with_right_answers_darker(tmp_path: Path, classes: int) -> None:
    confusion = np.eye(classes, dtype=np.int64) * 5
    confusion[0] = 0  # a class without images
    file = tmp_path / "confusion.png"
    draw_confusion(
        confusion, [f"price $ {n}$" for n in range(classes)], file, title="/$runs/\\frac{/$best"
    )
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0] > 60).mean()
    assert 0 < blue < 0.5
    if classes == 60:
        assert min(pixels.shape[:2]) > 1200, "names must have room"
