"""Box formats and overlaps against DETR's and scenic's own numbers, torchvision and a slow loop."""

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from owlkit.errors import BoxError
from owlkit.ops import (
    box_iou,
    cxcywh_to_xyxy,
    generalized_box_iou,
    paired_generalized_box_iou,
    xyxy_to_cxcywh,
)

SCENIC = 1e-6
PRECISIONS = [(torch.float64, 1e-6), (torch.float32, 2e-6)]


@pytest.fixture(scope="module")
def inputs(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("06_boxes") / "inputs.npz"))


@pytest.fixture(scope="module")
def expected(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("06_boxes") / "outputs.npz"))


def corners(inputs: dict[str, np.ndarray], name: str, dtype: torch.dtype) -> Tensor:
    if name == "pixel":
        return torch.tensor(inputs["pixel_xyxy"], dtype=dtype)
    return cxcywh_to_xyxy(torch.tensor(inputs[f"{name}_cxcywh"], dtype=dtype))


def assert_close(found: Tensor, expected: Any, *, atol: float, rtol: float = 0.0) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS)
def test_formats_match_detr(inputs, expected, dtype, atol):
    for name in ("a", "b"):
        boxes = torch.tensor(inputs[f"boxes_{name}_cxcywh"], dtype=dtype)
        assert_close(cxcywh_to_xyxy(boxes), expected[f"detr_{name}_xyxy"], atol=atol)
        assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes, atol=atol)
    pixels = torch.tensor(inputs["pixel_xyxy"], dtype=dtype)
    assert_close(xyxy_to_cxcywh(pixels), expected["detr_pixel_cxcywh"], atol=0, rtol=1e-6)


def test_formats_keep_leading_dimensions():
    boxes = torch.rand(2, 3, 5, 4)
    whole = cxcywh_to_xyxy(boxes)
    assert whole.shape == boxes.shape
    torch.testing.assert_close(whole[1, 2, 3], cxcywh_to_xyxy(boxes[1, 2, 3]))
    torch.testing.assert_close(xyxy_to_cxcywh(whole), boxes)
    assert xyxy_to_cxcywh(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS)
def test_overlaps_match_detr(inputs, expected, dtype, atol):
    a, b = corners(inputs, "boxes_a", dtype), corners(inputs, "boxes_b", dtype)
    assert_close(box_iou(a, b), expected["detr_iou"], atol=atol)
    assert_close(generalized_box_iou(a, b), expected["detr_giou"], atol=atol)
    pixel = corners(inputs, "pixel", dtype)
    assert_close(box_iou(pixel, pixel), expected["detr_pixel_iou"], atol=atol)
    assert_close(generalized_box_iou(pixel, pixel), expected["detr_pixel_giou"], atol=atol)
    tiny = corners(inputs, "tiny", torch.float64)
    assert_close(box_iou(tiny, tiny), expected["detr_tiny_iou"], atol=1e-6)
    assert_close(generalized_box_iou(tiny, tiny), expected["detr_tiny_giou"], atol=1e-6)


@pytest.mark.parametrize("name", ["ab", "tiny", "degenerate", "pixel"])
def test_overlaps_with_eps_match_scenic(inputs, expected, name):
    pair = ("boxes_a", "boxes_b") if name == "ab" else (name, name)
    a, b = (corners(inputs, one, torch.float64) for one in pair)
    assert_close(box_iou(a, b, eps=SCENIC), expected[f"scenic_{name}_iou"], atol=1e-6)
    assert_close(generalized_box_iou(a, b, eps=SCENIC), expected[f"scenic_{name}_giou"], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_empty_boxes_give_zero_where_detr_gives_nan(inputs, expected, dtype):
    boxes = corners(inputs, "degenerate", dtype)
    for found, key in (
        (box_iou(boxes, boxes), "detr_degenerate_iou"),
        (generalized_box_iou(boxes, boxes), "detr_degenerate_giou"),
    ):
        assert found.isfinite().all()
        defined = ~np.isnan(expected[key])
        assert_close(found[torch.tensor(defined)], expected[key][defined], atol=2e-6)
    iou = box_iou(boxes, boxes).numpy()
    assert (iou[np.isnan(expected["detr_degenerate_iou"])] == 0).all()
    assert generalized_box_iou(boxes, boxes)[0, 0] == 0, "the same point twice"


def loss_and_gradient(inputs: dict[str, np.ndarray], eps: float) -> tuple[float, Tensor]:
    a = torch.tensor(inputs["boxes_a_cxcywh"], dtype=torch.float64, requires_grad=True)
    b = corners(inputs, "boxes_b", torch.float64)
    giou = paired_generalized_box_iou(cxcywh_to_xyxy(a)[: len(b)], b, eps=eps)
    loss = (1 - giou).sum()
    loss.backward()
    assert a.grad is not None
    return loss.item(), a.grad


@pytest.mark.parametrize(("peer", "eps"), [("detr", 0.0), ("scenic", SCENIC)])
def test_loss_and_gradient_match(inputs, expected, peer, eps):
    loss, gradient = loss_and_gradient(inputs, eps)
    assert loss == pytest.approx(float(expected[f"{peer}_giou_loss_sum"]), abs=1e-6)
    assert_close(gradient, expected[f"{peer}_giou_grad_cxcywh"], atol=1e-5)


def test_gradient_at_empty_boxes_matches_scenic(inputs, expected):
    # The gradient of torch.clamp at its limit is 0, with which a box of no width never grew.
    boxes = torch.tensor(inputs["degenerate_cxcywh"], dtype=torch.float64, requires_grad=True)
    other = cxcywh_to_xyxy(boxes.detach().flip(0))
    (1 - paired_generalized_box_iou(cxcywh_to_xyxy(boxes), other, eps=SCENIC)).sum().backward()
    assert boxes.grad is not None
    wanted = expected["scenic_degenerate_giou_grad"]
    assert np.abs(wanted).max() > 1e5
    assert_close(boxes.grad, wanted, atol=1e-5, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-18, 1e-25])
@pytest.mark.parametrize("eps", [0.0, SCENIC])
def test_gradients_of_empty_boxes_are_finite(inputs, scale, eps):
    boxes = torch.tensor(inputs["degenerate_cxcywh"]) * scale
    boxes.requires_grad_()
    xyxy = cxcywh_to_xyxy(boxes)
    other = xyxy.detach().flip(0)
    total = (
        paired_generalized_box_iou(xyxy, other, eps=eps).sum()
        + box_iou(xyxy, other, eps=eps).sum()
        + generalized_box_iou(xyxy, xyxy, eps=eps).sum()
    )
    total.backward()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def test_paired_is_the_diagonal(inputs, expected):
    a, b = (corners(inputs, f"boxes_{name}", torch.float64) for name in "ab")
    a = a[: len(b)]
    torch.testing.assert_close(
        paired_generalized_box_iou(a, b), generalized_box_iou(a, b).diagonal()
    )
    paired = paired_generalized_box_iou(a, b, eps=SCENIC)
    assert_close(paired, expected["scenic_paired_giou"], atol=1e-6)


def test_overlaps_match_torchvision():
    generator = torch.Generator().manual_seed(0)
    a = cxcywh_to_xyxy(torch.rand(40, 4, generator=generator) + 0.01)
    b = cxcywh_to_xyxy(torch.rand(30, 4, generator=generator) + 0.01)
    torch.testing.assert_close(box_iou(a, b), torchvision.ops.box_iou(a, b))
    torch.testing.assert_close(generalized_box_iou(a, b), torchvision.ops.generalized_box_iou(a, b))


@pytest.mark.parametrize(
    ("box", "other", "iou", "giou"),
    [
        pytest.param([0, 0, 1, 1], [1, 0, 2, 1], 0, 0, id="touching edges do not overlap"),
        pytest.param([0, 0, 1, 1], [3, 0, 4, 1], 0, -0.5, id="half of the hull is a gap"),
        pytest.param([0, 0, 4, 4], [1, 1, 3, 3], 0.25, 0.25, id="inside: the hull is the union"),
        pytest.param([2, 0, 0, 2], [0, 0, 2, 2], 0, 0, id="swapped corners count as empty"),
        pytest.param([-4, -4, -2, -2], [-3, -4, -1, -2], 1 / 3, 1 / 3, id="negative coordinates"),
    ],
)
def test_by_hand(box, other, iou, giou):
    a, b = torch.tensor([box]).float(), torch.tensor([other]).float()
    assert box_iou(a, b).item() == pytest.approx(iou)
    assert generalized_box_iou(a, b).item() == pytest.approx(giou)


def test_large_boxes_in_half_precision_do_not_overflow():
    boxes = torch.tensor([[0, 0, 1024, 1024], [0, 0, 1024, 512]])
    wanted = torch.tensor([[1, 0.5], [0.5, 1]])
    for dtype in (torch.float16, torch.bfloat16, torch.int32):
        found = box_iou(boxes.to(dtype), boxes.to(dtype))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted)


def test_no_boxes():
    some, none = torch.rand(3, 4), torch.zeros(0, 4)
    assert box_iou(some, none).shape == (3, 0)
    assert generalized_box_iou(none, some).shape == (0, 3)
    assert paired_generalized_box_iou(none, none).shape == (0,)


@pytest.mark.parametrize("function", [box_iou, generalized_box_iou, paired_generalized_box_iou])
@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ((3, 5), (3, 4), {}, r"a of shape \[N, 4\], found \[3, 5\]"),
        ((3, 4), (4,), {}, r"b of shape \[N, 4\], found \[4\]"),
        ((1, 3, 4), (3, 4), {}, r"found \[1, 3, 4\]"),
        ((3, 4), (3, 4), {"eps": -1e-6}, "eps >= 0, found -1e-06"),
        ((3, 4), (3, 4), {"eps": float("nan")}, "found nan"),
    ],
)
def test_bad_arguments_are_named(function, a, b, options, message):
    with pytest.raises(BoxError, match=message):
        function(torch.zeros(a), torch.zeros(b), **options)


def test_paired_lengths_must_agree():
    with pytest.raises(BoxError, match=r"in a \(3\), found 2"):
        paired_generalized_box_iou(torch.zeros(3, 4), torch.zeros(2, 4))


@pytest.mark.parametrize("function", [cxcywh_to_xyxy, xyxy_to_cxcywh])
@pytest.mark.parametrize("shape", [(), (3,), (4, 5)])
def test_formats_refuse_other_shapes(function, shape):
    with pytest.raises(BoxError, match=r"shape \[..., 4\]"):
        function(torch.zeros(shape))
