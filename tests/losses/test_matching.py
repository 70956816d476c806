"""Costs and assignments against scenic's, all permutations, and the cases where little is left."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from owlkit.errors import BoxError, QueryError
from owlkit.losses import match, matching_cost
from owlkit.ops import cxcywh_to_xyxy, generalized_box_iou
from tests.losses.problems import golden_configs, golden_problem, random_problem

CONFIGS = ["owlvit", "owlvit_global", "weights252_global", "bce"]


@pytest.fixture
def problem(golden):
    return golden_problem(golden("07_matching_loss"))


def arguments(golden, name):
    config = golden_configs(golden("07_matching_loss"))[name]
    return {key: value for key, value in config.items() if key != "normalization"}


@pytest.mark.parametrize("name", CONFIGS)
def test_costs_and_assignment_match_scenic(golden, problem, name):
    expected = np.load(golden("07_matching_loss") / "outputs.npz")
    cost = matching_cost(*problem, **arguments(golden, name))
    # scenic appends one column of padding.
    np.testing.assert_allclose(cost, expected[f"{name}_cost"][:, :, :-1], rtol=1e-4, atol=1e-6)
    matches = match(*problem, **arguments(golden, name))
    assert matches.dtype == torch.int64
    np.testing.assert_array_equal(matches, expected[f"{name}_assignment"])


def test_costs_match_the_other_scenic_run(golden):
    loss = np.load(golden("scenic_tiny") / "owl_goldens.npz")
    labels = torch.tensor(loss["loss/tgt_labels_multihot_with_pad0"])
    problem = random_problem([4, 4], predictions=6, queries=4)
    targets = replace(
        problem.targets,
        boxes=torch.tensor(loss["loss/tgt_boxes"]),
        labels=labels[:, :, 1:],
        box_mask=labels[:, :, 0] == 0,
        query_mask=torch.ones(2, 4, dtype=torch.bool),
    )
    logits = torch.tensor(loss["loss/pred_logits"])[:, :, 1:]
    cost = matching_cost(logits, torch.tensor(loss["loss/pred_boxes"]), targets)
    np.testing.assert_allclose(cost, loss["loss/cost_without_extra_pad"], rtol=1e-5, atol=1e-6)


def test_the_box_cost_is_that_of_the_box_operations():
    """The cost works coordinate by coordinate; boxes that touch, nest, coincide or are empty."""
    logits, boxes, targets = random_problem([6, 6], predictions=9)
    boxes[0, :3] = targets.boxes[0, :3]
    boxes[0, 3] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    targets.boxes[0, 3] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    targets.boxes[0, 4] = torch.tensor([0.5, 0.5, 0.1, 0.1])
    boxes[0, 4] = torch.tensor([0.6, 0.5, 0.1, 0.1])
    cost = matching_cost(logits, boxes, targets, class_weight=0, l1_weight=0)
    for image in range(2):
        a, b = cxcywh_to_xyxy(boxes[image]), cxcywh_to_xyxy(targets.boxes[image])
        expected = -generalized_box_iou(a, b, eps=1e-6)
        torch.testing.assert_close(cost[image], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("counts", [[3, 0, 4], [4, 4, 1]])
def test_no_permutation_is_cheaper(seed, counts):
    problem = random_problem(counts, predictions=4, most=6, seed=seed)
    matches = match(*problem)
    cost = matching_cost(*problem)
    assert matches.shape == (3, 6)
    for image, count in enumerate(counts):
        cheapest = min(
            itertools.permutations(range(4), count),
            key=lambda rows: sum(cost[image, row, box].item() for box, row in enumerate(rows)),
        )
        assert matches[image].tolist() == [*cheapest, *[-1] * (6 - count)]


def test_with_more_boxes_than_predictions_the_cheapest_boxes_are_matched():
    problem = random_problem([4, 2], predictions=2)
    matches, cost = match(*problem), matching_cost(*problem)[0]
    pairs = itertools.permutations(range(4), 2)  # boxes of prediction 0 and 1
    first, second = min(pairs, key=lambda boxes: (cost[0, boxes[0]] + cost[1, boxes[1]]).item())
    expected = [-1] * 4
    expected[first], expected[second] = 0, 1
    assert matches[0].tolist() == expected
    assert sorted(matches[1, :2].tolist()) == [0, 1]


@pytest.mark.parametrize(("counts", "most"), [([0, 0], 3), ([0, 0], 0)])
def test_no_boxes_no_matches(counts, most):
    problem = random_problem(counts, most=most)
    assert match(*problem).tolist() == [[-1] * most] * 2
    assert matching_cost(*problem).shape == (2, 7, most)


def test_no_predictions_no_matches():
    assert match(*random_problem([2], predictions=0)).tolist() == [[-1, -1]]


def test_masked_queries_take_no_part():
    logits, boxes, targets = random_problem([4, 3])
    expected = matching_cost(logits, boxes, targets)
    targets.labels[:, 0, -1] = 1
    for value in (50.0, -1e6, torch.finfo(torch.float32).min, torch.nan):
        logits[:, :, -1] = value
        torch.testing.assert_close(matching_cost(logits, boxes, targets), expected)


def test_all_queries_masked_leaves_the_boxes():
    logits, boxes, targets = random_problem([4, 3])
    targets = replace(targets, query_mask=torch.zeros_like(targets.query_mask))
    expected = matching_cost(logits, boxes, targets, class_weight=0)
    torch.testing.assert_close(matching_cost(logits, boxes, targets), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_prediction_that_is_not_finite_is_matched_last(bad):
    logits, boxes, targets = random_problem([3, 3], predictions=3)
    logits[0, 1], boxes[1, 2, 0] = bad, bad
    cost = matching_cost(logits, boxes, targets)
    assert cost.isfinite().all()
    others = cost[0, [0, 2]]
    torch.testing.assert_close(cost[0, 1], (1.1 * others.max() + 10).expand(3))
    # Three boxes need all three predictions, two boxes only the sound ones.
    assert sorted(match(logits, boxes, targets)[0].tolist()) == [0, 1, 2]
    targets.box_mask[:, 2] = False
    matches = match(logits, boxes, targets)
    assert sorted(matches[0, :2].tolist()) == [0, 2]
    assert sorted(matches[1, :2].tolist()) == [0, 1]


def test_nothing_finite_still_matches():
    logits, boxes, targets = random_problem([3])
    cost = matching_cost(torch.full_like(logits, torch.nan), boxes, targets)
    torch.testing.assert_close(cost, torch.full_like(cost, 11.1))
    assert len(set(match(torch.full_like(logits, torch.nan), boxes, targets)[0].tolist())) == 3


def test_half_precision_inputs_are_widened_under_autocast():
    logits, boxes, targets = random_problem([4, 2])
    logits, boxes = logits.bfloat16(), boxes.bfloat16()
    expected = matching_cost(logits.float(), boxes.float(), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = matching_cost(logits.requires_grad_(), boxes, targets)
    assert not cost.requires_grad
    torch.testing.assert_close(cost, expected, rtol=0, atol=0)


def test_shapes_that_do_not_fit_are_refused():
    logits, boxes, targets = random_problem([3, 2])
    with pytest.raises(QueryError, match=r"logits of shape \[B, P, Q\], found \[7, 5\]"):
        match(logits[0], boxes, targets)
    with pytest.raises(BoxError, match=r"boxes of shape \[2, 7, 4\].*found \[2, 6, 4\]"):
        match(logits, boxes[:, :6], targets)
    with pytest.raises(QueryError, match=r"labels of shape \[2, 3, 5\].*found \[2, 3, 4\]"):
        match(logits, boxes, replace(targets, labels=targets.labels[:, :, :4]))
    with pytest.raises(QueryError, match=r"query_mask of shape \[2, 5\].*found \[1, 5\]"):
        match(logits, boxes, replace(targets, query_mask=targets.query_mask[:1]))
    with pytest.raises(BoxError, match=r"targets.boxes of shape \[2, 3, 4\].*found \[2, 2, 4\]"):
        match(logits, boxes, replace(targets, boxes=targets.boxes[:, :2]))


def test_the_host_waits_for_the_device_once():
    problem = random_problem([3, 0, 5], predictions=12, queries=6, most=7)
    transfers = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default):
                transfers.append(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        match(*problem)
    # What reads single numbers waits each time; the costs themselves are one copy.
    assert transfers == []
