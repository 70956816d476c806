"""The detection loss against scenic's totals, terms and gradients, a slow loop, and hard cases."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from owlkit.errors import BoxError, ConfigError, QueryError
from owlkit.losses import DetectionLoss, focal_loss
from owlkit.losses.objectness import objectness_loss
from owlkit.ops import cxcywh_to_xyxy, generalized_box_iou
from tests.losses.problems import Problem, golden_configs, golden_problem, random_problem

CONFIGS = ["owlvit", "owlvit_global", "weights252_global", "bce"]
TERMS = ("classes", "l1", "giou")


@pytest.fixture
def folder(golden):
    return golden("07_matching_loss")


@pytest.fixture
def problem(folder) -> Problem:
    return golden_problem(folder).require_grad()


def slow_loss(problem: Problem, matches: Tensor, normalization: str) -> dict[str, float]:
    """OWL-ViT's loss with default weights, one number after the other."""
    logits, boxes, targets = problem
    sums = {term: [] for term in TERMS}
    counts = {term: [] for term in TERMS}
    for image in range(len(logits)):
        real = range(int(targets.box_mask[image].sum()))
        queries = [q for q in range(logits.shape[2]) if targets.query_mask[image, q]]
        boxes_of = {matches[image, m].item(): m for m in real if matches[image, m] >= 0}
        classes = l1 = giou = 0.0
        for p, q in itertools.product(range(logits.shape[1]), queries):
            label = targets.labels[image, boxes_of[p], q] if p in boxes_of else torch.tensor(0.0)
            classes += focal_loss(logits[image, p, q], label).item()
        for p, m in boxes_of.items():
            a = cxcywh_to_xyxy(boxes[image, p : p + 1])
            b = cxcywh_to_xyxy(targets.boxes[image, m : m + 1])
            l1 += (a - b).abs().sum().item()
            giou += 1 - generalized_box_iou(a, b, eps=1e-6).item()
        labels = sum(targets.labels[image, m, q].item() for m in real for q in queries)
        for term, total, count in zip(
            TERMS, (classes, l1, giou), (labels, len(real), len(real)), strict=True
        ):
            sums[term].append(total)
            counts[term].append(count)
    if normalization == "global":
        return {term: sum(sums[term]) / max(1, sum(counts[term])) for term in TERMS}
    pairs = {term: zip(sums[term], counts[term], strict=True) for term in TERMS}
    return {term: np.mean([a / max(1, n) for a, n in pairs[term]]) for term in TERMS}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_totals_terms_and_gradients_match_scenic(folder, problem, name, masked):
    expected = np.load(folder / "outputs.npz")
    prefix = f"{name}_masked" if masked else name
    mask = torch.tensor(np.load(folder / "inputs.npz")["batch_mask"]) if masked else None
    losses = DetectionLoss(**golden_configs(folder)[name])(*problem, example_mask=mask)
    np.testing.assert_array_equal(losses.matches, expected[f"{name}_assignment"])
    for found, term in (
        (losses.total, "total_loss"),
        (losses.classes, "loss_class"),
        (losses.l1, "loss_bbox"),
        (losses.giou, "loss_giou"),
    ):
        np.testing.assert_allclose(found.item(), expected[f"{prefix}_{term}"], rtol=1e-5)
    losses.total.backward()
    wanted = expected[f"{prefix}_grad_logits"][:, :, 1:]  # without the padding query
    np.testing.assert_allclose(problem.logits.grad, wanted, atol=1e-5)
    np.testing.assert_allclose(problem.boxes.grad, expected[f"{prefix}_grad_boxes"], atol=1e-5)


@pytest.mark.parametrize("normalization", ["per_example", "global"])
def test_totals_match_the_other_scenic_run(golden, normalization):
    loss = np.load(golden("scenic_tiny") / "owl_goldens.npz")
    labels = torch.tensor(loss["loss/tgt_labels_multihot_with_pad0"])
    targets = replace(
        random_problem([4, 4], queries=4).targets,
        boxes=torch.tensor(loss["loss/tgt_boxes"]),
        labels=labels[:, :, 1:],
        box_mask=labels[:, :, 0] == 0,
        query_mask=torch.ones(2, 4, dtype=torch.bool),
    )
    logits = torch.tensor(loss["loss/pred_logits"])[:, :, 1:]
    boxes = torch.tensor(loss["loss/pred_boxes"])
    losses = DetectionLoss(normalization=normalization)(logits, boxes, targets)
    expected = loss[f"loss/{normalization}__hungarian__total"]
    np.testing.assert_allclose(losses.total.item(), expected, rtol=1e-6)


@pytest.mark.parametrize("normalization", ["per_example", "global"])
@pytest.mark.parametrize(
    ("counts", "predictions"),
    [
        pytest.param([3, 1, 0], 7, id="one image without boxes"),
        pytest.param([0, 0, 0], 7, id="no boxes at all: the class loss is not divided by 0"),
        pytest.param([5, 2, 4], 3, id="boxes left over are counted, not learned"),
    ],
)
def test_terms_match_a_slow_loop(counts, predictions, normalization):
    problem = random_problem(counts, predictions=predictions, most=6)
    losses = DetectionLoss(normalization=normalization)(*problem)
    matched = (losses.matches >= 0).sum(dim=1)
    assert matched.tolist() == [min(count, predictions) for count in counts]
    expected = slow_loss(problem, losses.matches, normalization)
    for term, value in expected.items():
        np.testing.assert_allclose(getattr(losses, term).item(), value, rtol=2e-5, err_msg=term)
    np.testing.assert_allclose(losses.total.item(), sum(expected.values()), rtol=2e-5)
    assert losses.objectness is None


@pytest.mark.parametrize("most", [0, 4])
def test_images_without_boxes_learn_only_silence(most):
    problem = random_problem([0, 0], most=most).require_grad()
    losses = DetectionLoss()(*problem)
    losses.total.backward()
    assert losses.l1.item() == losses.giou.item() == 0
    silence = focal_loss(problem.logits, torch.zeros_like(problem.logits))[:, :, :-1]
    torch.testing.assert_close(losses.classes, silence.sum(dim=(1, 2)).mean())
    assert (problem.logits.grad[:, :, :-1] > 0).all()
    assert problem.boxes.grad.count_nonzero() == 0


def test_masked_queries_take_no_part():
    logits, boxes, targets = random_problem([4, 3])
    expected = DetectionLoss()(logits, boxes, targets).total
    targets.labels[:, 0, -1] = 1
    for value in (50.0, -1e6, torch.finfo(torch.float32).min):
        logits = logits.detach().clone()
        logits[:, :, -1] = value
        total = DetectionLoss()(logits.requires_grad_(), boxes, targets).total
        torch.testing.assert_close(total, expected)
        (gradient,) = torch.autograd.grad(total, logits)
        assert gradient.isfinite().all()
        assert gradient[:, :, -1].count_nonzero() == 0


def test_without_any_query_only_boxes_are_learned():
    logits, boxes, targets = random_problem([4, 3])
    targets = replace(targets, query_mask=torch.zeros_like(targets.query_mask))
    losses = DetectionLoss()(logits, boxes, targets, objectness=torch.randn(2, 7))
    assert losses.classes.item() == losses.objectness.item() == 0
    torch.testing.assert_close(losses.total, losses.l1 + losses.giou)


def test_labels_of_padding_are_not_counted():
    logits, boxes, targets = random_problem([2, 3])
    expected = DetectionLoss()(logits, boxes, targets)
    targets.labels[0, 2] = 1
    torch.testing.assert_close(DetectionLoss()(logits, boxes, targets).total, expected.total)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_logit_that_is_not_finite_shows_in_the_loss(bad, everywhere):
    """In a prediction that may or may not be matched, the trainer must see it."""
    for prediction in range(7):
        logits, boxes, targets = random_problem([3, 2])
        logits[:, slice(None) if everywhere else prediction, 1] = bad
        losses = DetectionLoss()(logits, boxes, targets)
        assert not losses.classes.isfinite()
        assert not losses.total.isfinite()


@pytest.mark.parametrize("normalization", ["per_example", "global"])
def test_objectness_is_averaged_over_tokens_and_images(normalization):
    problem = random_problem([3, 1, 0])
    objectness = torch.randn(3, 7, requires_grad=True)
    loss = DetectionLoss(normalization=normalization, objectness_weight=2.5)
    without, losses = loss(*problem), loss(*problem, objectness=objectness)
    values = objectness_loss(objectness, problem.logits, problem.targets.query_mask)
    torch.testing.assert_close(losses.objectness, values.mean())
    torch.testing.assert_close(losses.total, without.total + 2.5 * values.mean())
    ignored = torch.tensor([True, False, True])
    masked = loss(*problem, objectness=objectness, example_mask=ignored).objectness
    divisor = 3 if normalization == "per_example" else 2
    torch.testing.assert_close(masked, (values[0].mean() + values[2].mean()) / divisor)


def test_half_precision_inputs_are_widened_under_autocast():
    logits, boxes, targets = random_problem([4, 2])
    logits, boxes = logits.bfloat16(), boxes.bfloat16()
    expected = DetectionLoss()(logits.float(), boxes.float(), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = DetectionLoss()(logits, boxes, targets)
    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses.total, expected.total, rtol=0, atol=0)


def test_what_does_not_fit_is_refused():
    logits, boxes, targets = random_problem([3, 2])
    with pytest.raises(ConfigError, match="'per_example' or 'global', found 'batch'"):
        DetectionLoss(normalization="batch")
    with pytest.raises(QueryError, match="labels of shape"):
        DetectionLoss()(logits[:, :, :3], boxes, targets)
    with pytest.raises(BoxError, match=r"objectness of shape \[2, 7\], found \[2, 6\]"):
        DetectionLoss()(logits, boxes, targets, objectness=torch.zeros(2, 6))
    with pytest.raises(BoxError, match=r"example_mask of shape \[2\], found \[3\]"):
        DetectionLoss()(logits, boxes, targets, example_mask=torch.ones(3))


def test_two_processes_learn_what_one_does(folder, problem, monkeypatch):
    """Each process's total is scenic's; the averaged gradient is that of one process.

    The processes take turns: first each shows its counts, then each is given the other's.
    """
    loss = DetectionLoss(normalization="global")
    parts = golden_problem(folder).require_grad()
    halves = [Problem(*(part[half] for part in parts)) for half in (slice(0, 2), slice(2, 4))]
    shown: list[Tensor] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda counts: shown.append(counts.clone()))
    for half in halves:
        loss(*half)
    totals = []
    for half, other in zip(halves, reversed(shown), strict=True):
        monkeypatch.setattr(dist, "all_reduce", lambda counts, other=other: counts.add_(other))
        totals.append(loss(*half).total)
    expected = np.load(folder / "outputs.npz")["owlvit_global_2replicas_total_loss"]
    np.testing.assert_allclose([total.item() for total in totals], expected, rtol=1e-5)
    torch.stack(totals).mean().backward()
    monkeypatch.undo()
    loss(*problem).total.backward()
    torch.testing.assert_close(parts.logits.grad, problem.logits.grad)
    torch.testing.assert_close(parts.boxes.grad, problem.boxes.grad)


@pytest.mark.parametrize("counts", [[3, 3, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
@pytest.mark.parametrize("normalization", ["per_example", "global"])
def test_parts_that_know_the_whole_add_up_to_it(counts, normalization):
    """The counts of the batch below 1 are 1, those of its parts have no such floor."""
    loss = DetectionLoss(normalization=normalization)
    logits, boxes, targets = random_problem(counts, most=3)
    objectness = torch.randn(4, 7)
    expected = loss(logits, boxes, targets, objectness=objectness)
    whole = replace(targets, divisors=loss.divisors(targets))
    for size in (1, 2, 4):
        parts = [
            loss(logits[part], boxes[part], whole[part], objectness=objectness[part])
            for part in (slice(start, start + size) for start in range(0, 4, size))
        ]
        for term in (*TERMS, "objectness", "total"):
            mean = torch.stack([getattr(part, term) for part in parts]).mean()
            torch.testing.assert_close(mean, getattr(expected, term), rtol=1e-5, atol=1e-6)


def test_replicas_do_not_meet_per_example(folder):
    logits, boxes, targets = golden_problem(folder)
    expected = np.load(folder / "outputs.npz")["owlvit_2replicas_total_loss"]
    for rank, half in enumerate((slice(0, 2), slice(2, 4))):
        total = DetectionLoss()(logits[half], boxes[half], targets[half]).total
        np.testing.assert_allclose(total.item(), expected[rank], rtol=1e-5)
