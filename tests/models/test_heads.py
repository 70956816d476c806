"""Heads: priors, scoring and initial values."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from owlkit.models.heads import ClassHead, PatchMLP, box_bias, score_queries, unit_embeddings


@pytest.mark.parametrize("kind", ["both", "location", "size"])
def test_box_bias_is_scenics(golden: Callable[[str], Path], kind: str) -> None:
    folder = golden("06_boxes")
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    for height, width in inputs["grid_sizes"].tolist():
        expected = outputs[f"box_bias_{height}x{width}_{kind}"]
        found = box_bias((height, width), size_bias="width", kind=kind)
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("name", ["01_owlvit", "02_owlv2"])
def test_box_bias_is_hugging_faces_on_oblong_grids(
    golden: Callable[[str], Path], name: str
) -> None:
    inputs = np.load(golden(name) / "inputs.npz")
    outputs = np.load(golden(name) / "outputs.npz")
    height, width = (side // 16 for side in inputs["pixel_values_odd"].shape[2:])
    found = box_bias((height, width), size_bias="both")
    np.testing.assert_allclose(found.numpy(), outputs["box_bias_odd"], atol=2e-6)
    scenic = box_bias((height, width), size_bias="width")
    assert not np.allclose(scenic.numpy(), outputs["box_bias_odd"], atol=0.1)


def test_box_bias_of_the_recipe(golden: Callable[[str], Path]) -> None:
    values = json.loads((golden("scenic_tiny") / "owl_goldens.json").read_text())
    np.testing.assert_allclose(box_bias((2, 3)).numpy(), values["box_bias_2x3"], atol=2e-6)


def test_scores_are_shifted_and_scaled_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 5, 7, generator=generator)
    shift, scale = torch.randn(2, 2, 5, 1, generator=generator)
    queries = torch.randn(3, 7, generator=generator)
    found = score_queries(embeds, shift, scale, unit_embeddings(queries))
    for image in range(2):
        for patch in range(5):
            for query in range(3):
                a, b = embeds[image, patch], queries[query]
                cosine = (a @ b) / ((a.norm() + 1e-6) * (b.norm() + 1e-6))
                expected = (cosine + shift[image, patch, 0]) * scale[image, patch, 0]
                assert found[image, patch, query].item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_mean_of_unit_queries_scores_the_mean_of_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, 4, 6, generator=generator)
    shift, scale = torch.randn(2, 1, 4, 1, generator=generator)
    units = unit_embeddings(torch.randn(5, 6, generator=generator))
    each = score_queries(embeds, shift, scale, units)
    together = score_queries(embeds, shift, scale, units.mean(dim=0, keepdim=True))
    torch.testing.assert_close(together[..., 0], each.mean(dim=-1))


def test_queries_of_each_image_meet_that_image_only() -> None:
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 4, 6, generator=generator)
    shift, scale = torch.zeros(2, 4, 1), torch.ones(2, 4, 1)
    queries = unit_embeddings(torch.randn(2, 3, 6, generator=generator))
    both = score_queries(embeds, shift, scale, queries)
    for image in range(2):
        alone = score_queries(embeds[image : image + 1], shift[:1], scale[:1], queries[image])
        torch.testing.assert_close(both[image], alone[0])


def test_before_training_every_score_is_the_prior_and_every_box_its_bias() -> None:
    torch.manual_seed(0)
    class_head = ClassHead(32, 16, prior_prob=0.01)
    assert class_head.logit_shift.bias.item() == pytest.approx(-4.59511985)
    assert class_head.dense.weight.std().item() == pytest.approx(1e-6, rel=0.1)
    tokens = torch.randn(2, 9, 32)
    assert not PatchMLP(32, 4, gelu="tanh")(tokens).any()


def test_lecun_normal_has_unit_output_variance() -> None:
    torch.manual_seed(0)
    mlp = PatchMLP(1024, 4, gelu="none")
    assert mlp.dense0.weight.std().item() == pytest.approx(1 / math.sqrt(1024), rel=0.01)
    assert mlp.dense0.weight.abs().max().item() < 2.3 / math.sqrt(1024)
