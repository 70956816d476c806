"""The detector, against transformers, the original JAX code, and equal random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from owlkit import OwlDetector
from owlkit.encoders import VisionTower, create_text_tower
from owlkit.errors import ConfigError, QueryError
from owlkit.geometry import owlv2_preprocessing
from owlkit.models.convention import resolve_convention
from owlkit.models.heads import unit_embeddings
from tests.encoders.test_hf_vision import copy_as_model_folder
from tests.huggingface import make_owl, save_owl_folder


class Case:
    """One golden fixture: the detector, its inputs and what is expected."""

    def __init__(self, fixture: Path, folder: Path, convention: Any = None) -> None:
        copy_as_model_folder(fixture, folder)
        self.detector = OwlDetector.from_pretrained(folder, convention)
        self.inputs = np.load(fixture / "inputs.npz")
        self.outputs = np.load(fixture / "outputs.npz")

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.inputs[key])

    def queries(self, *, masked: bool = True) -> tuple[Tensor, Tensor]:
        """Query embeddings [B, Q, E] and which are real [B, Q]."""
        ids = self.tensor("input_ids")
        flat = ids.reshape(-1, ids.shape[-1])
        mask = self.tensor("attention_mask").reshape(flat.shape) if masked else None
        embeds = self.detector.encode_text(flat, mask)
        batch = len(self.tensor("pixel_values"))
        real = (flat[:, 0] > 0).reshape(batch, -1)
        return embeds.reshape(*real.shape, -1), real


@pytest.mark.parametrize("prefix", ["", "odd_"], ids=["native size", "other size"])
@pytest.mark.parametrize("name", ["01_owlvit", "02_owlv2"])
@torch.no_grad()
def test_matches_transformers(
    golden: Callable[[str], Path], tmp_path: Path, name: str, prefix: str
) -> None:
    case = Case(golden(name), tmp_path / "model")
    tolerance = json.loads((golden(name) / "tolerance.json").read_text())
    pixels = case.tensor(f"pixel_values{'_odd' if prefix else ''}")
    queries, real = case.queries()
    features = case.detector.encode_images(pixels)
    logits = case.detector.score(features, queries, real)
    found = {
        "image_embeds": case.detector.feature_map(pixels),
        "class_embeds": unit_embeddings(features.class_embeds),
        "pred_boxes": features.boxes,
        "text_embeds": queries[real],
        "logits": logits.transpose(1, 2)[real],
    }
    if features.objectness is not None:
        found["objectness_logits"] = features.objectness
    for key, value in found.items():
        expected = case.outputs[f"{prefix}{key}"]
        if key == "text_embeds":
            expected = expected[real.numpy()]
        if key == "logits":
            expected = expected.transpose(0, 2, 1)[real.numpy()]
        allowed = tolerance.get(f"{prefix}{key}", 1e-5)
        np.testing.assert_allclose(value.numpy(), expected, atol=allowed, rtol=0, err_msg=key)
    assert (logits.transpose(1, 2)[~real] <= -1e5).all()
    assert (name == "02_owlv2") == (features.objectness is not None)


@pytest.mark.parametrize("name", ["01_owlvit", "02_owlv2"])
@torch.no_grad()
def test_texts_without_a_mask_match_too(
    golden: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    case = Case(golden(name), tmp_path / "model")
    queries, real = case.queries(masked=False)
    expected = case.outputs["nomask_text_embeds"][real.numpy()]
    np.testing.assert_allclose(queries[real].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("convention", ["hf", "scenic"])
@torch.no_grad()
def test_each_convention_matches_its_original(
    golden: Callable[[str], Path], tmp_path: Path, convention: str
) -> None:
    case = Case(golden("11_owlv2_scenic"), tmp_path / "model", convention)
    pixels = case.tensor("pixel_values")
    real = torch.from_numpy(case.outputs["valid_queries"])
    queries, _ = case.queries()
    features = case.detector.encode_images(pixels)
    logits = case.detector.score(features, queries, real).transpose(1, 2)
    # Tight enough to tell the two apart; stated by the fixture.
    expectations = [
        ("feature_map", case.detector.feature_map(pixels), 1.5e-5),
        ("pred_boxes", features.boxes, 1e-5),
        ("objectness_logits", features.objectness, 3e-5),
        ("class_embeddings", unit_embeddings(features.class_embeds), 5e-6),
    ]
    for key, value, tolerance in expectations:
        expected = case.outputs[f"{convention}_{key}"]
        assert value is not None
        np.testing.assert_allclose(value.numpy(), expected, atol=tolerance, rtol=0, err_msg=key)
    expected = case.outputs[f"{convention}_pred_logits"].transpose(0, 2, 1)
    np.testing.assert_allclose(logits[real], expected[real], atol=1.5e-5, rtol=0)
    assert (logits[~real] == resolve_convention(convention).masked_logit).all()


@torch.no_grad()
def test_scenic_text_embeddings_are_raw(golden: Callable[[str], Path], tmp_path: Path) -> None:
    case = Case(golden("11_owlv2_scenic"), tmp_path / "model", "scenic")
    queries, real = case.queries()
    expected = case.outputs["scenic_query_embeddings"][real.numpy()]
    np.testing.assert_allclose(queries[real].numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_selection_by_objectness_matches_scenic(
    golden: Callable[[str], Path], tmp_path: Path
) -> None:
    case = Case(golden("11_owlv2_scenic"), tmp_path / "model", "scenic")
    queries, real = case.queries()
    features = case.detector.encode_images(case.tensor("pixel_values"), objectness_top_k=6)
    logits = case.detector.score(features, queries, real)
    assert features.objectness is not None
    expected = case.outputs["scenic_train_top6_objectness_logits"]
    np.testing.assert_allclose(features.objectness.numpy(), expected, atol=3e-5)
    expected = case.outputs["scenic_train_top6_pred_boxes"]
    np.testing.assert_allclose(features.boxes.numpy(), expected, atol=1e-5)
    expected = case.outputs["scenic_train_top6_pred_logits"].transpose(0, 2, 1)[real]
    np.testing.assert_allclose(logits.transpose(1, 2)[real].numpy(), expected, atol=1.5e-5)


@torch.no_grad()
def test_tiny_scenic_model_from_its_own_weights(
    golden: Callable[[str], Path], tmp_path: Path
) -> None:
    arrays = np.load(golden("scenic_tiny") / "owl_goldens.npz")
    state = {
        key[2:]: torch.from_numpy(arrays[key].copy(order="C"))
        for key in arrays
        if key.startswith("w/")
    }
    config = {
        "model_type": "owlv2",
        "projection_dim": 64,
        "text_config": {
            "vocab_size": 100,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 6,
            "bos_token_id": 98,
            "eos_token_id": 99,
        },
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors")
    detector = OwlDetector.from_pretrained(tmp_path, "scenic")
    mean, std = (
        np.array(v, np.float32) for v in (detector.preprocessing.mean, detector.preprocessing.std)
    )
    pixels = torch.from_numpy((arrays["in/image_01"] - mean) / std).permute(0, 3, 1, 2)
    ids = torch.from_numpy(arrays["in/tokens"][0]).long()
    queries = detector.encode_text(ids, (ids > 0).long())
    features = detector.encode_images(pixels)
    logits = detector.score(features, queries, ids[:, 0] > 0)
    expected = {
        "pred_boxes": features.boxes,
        "objectness_logits": features.objectness,
        "class_embeddings": unit_embeddings(features.class_embeds),
        "feature_map": detector.feature_map(pixels),
    }
    for key, value in expected.items():
        np.testing.assert_allclose(value, arrays[f"out/{key}"], atol=1e-5, err_msg=key)
    np.testing.assert_allclose(queries[:3], arrays["out/query_embeddings"][0, :3], atol=1e-5)
    np.testing.assert_allclose(logits[..., :3], arrays["out/pred_logits"][..., :3], atol=1e-5)
    assert (logits[..., 3] == -1e6).all()


@pytest.mark.parametrize(
    ("model_type", "image_size", "patch_size", "depth"),
    [("owlvit", 768, 32, 12), ("owlvit", 768, 16, 4), ("owlv2", 960, 16, 2)],
    ids=["B/32-like", "B/16-like", "OWLv2-like"],
)
@torch.no_grad()
def test_equal_random_weights_give_equal_answers(
    tmp_path: Path,
    tokenizer_folder: Path,
    model_type: str,
    image_size: int,
    patch_size: int,
    depth: int,
) -> None:
    """Native grids of the published models; fewer blocks, so that it takes seconds."""
    theirs = make_owl(
        model_type,
        image_size=image_size,
        patch_size=patch_size,
        width=256,
        depth=depth,
        text_width=128,
    )
    save_owl_folder(theirs, tmp_path, tokenizer_folder)
    ours = OwlDetector.from_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, image_size, image_size, generator=generator)
    ids = torch.randint(1, 290, (4, 6), generator=generator)
    ids[:, 0], ids[:, -1] = 298, 299
    expected = theirs(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
    features = ours.encode_images(pixels)
    logits = ours.score(features, ours.encode_text(ids))
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.boxes, expected.pred_boxes, atol=1e-5, rtol=0)
    if model_type == "owlv2":
        torch.testing.assert_close(
            features.objectness, expected.objectness_logits, atol=1e-5, rtol=0
        )


def small_detector(**options: Any) -> OwlDetector:
    torch.manual_seed(0)
    overrides = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    vision = VisionTower("vit_base_patch16_clip_quickgelu_224", image_size=64, overrides=overrides)
    text = create_text_tower(width=32, depth=1, heads=2, vocab_size=50, embed_width=16)
    return OwlDetector(
        vision,
        text,
        preprocessing=owlv2_preprocessing(64, "scenic"),
        convention=resolve_convention("scenic"),
        **options,
    ).eval()


@torch.no_grad()
def test_dropped_patches_keep_their_own_boxes() -> None:
    detector = small_detector(objectness=True)
    torch.nn.init.normal_(detector.box_head.dense2.weight, std=1e-4)
    pixels = torch.randn(2, 3, 64, 64)
    keep = torch.tensor([[3, 9], [15, 0]])
    features = detector.encode_images(pixels, keep=keep)
    full = detector.encode_images(pixels)
    assert torch.equal(features.patches, keep)
    expected = full.boxes.gather(1, keep[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(features.boxes, expected, atol=1e-3, rtol=0)


def test_objectness_moves_no_patch() -> None:
    detector = small_detector(objectness=True).train()
    torch.nn.init.normal_(detector.objectness_head.dense2.weight)
    detector.encode_images(torch.randn(1, 3, 64, 64)).objectness.sum().backward()
    assert detector.vision.model.patch_embed.proj.weight.grad is None
    assert detector.objectness_head.dense0.weight.grad.any()


@torch.no_grad()
def test_a_tower_in_half_precision_leaves_boxes_in_float32() -> None:
    detector = small_detector()
    pixels = torch.randn(1, 3, 64, 64)
    full = detector.encode_images(pixels)
    detector.vision.to(torch.bfloat16)
    half = detector.encode_images(pixels)
    assert half.boxes.dtype == half.class_embeds.dtype == torch.float32
    torch.testing.assert_close(half.boxes, full.boxes, atol=1e-3, rtol=0)


@torch.no_grad()
def test_any_backbone_becomes_a_detector() -> None:
    vision = VisionTower("resnet18", image_size=64)
    text = create_text_tower(width=32, depth=1, heads=2, vocab_size=50, embed_width=16)
    detector = OwlDetector(
        vision,
        text,
        preprocessing=owlv2_preprocessing(64, "scenic"),
        convention=resolve_convention("scenic"),
    ).eval()
    features = detector.encode_images(torch.randn(1, 3, 64, 96))
    assert features.boxes.shape == (1, 2 * 3, 4)
    assert detector.score(features, torch.randn(5, 16)).shape == (1, 6, 5)


@torch.no_grad()
def test_empty_batches_and_empty_query_lists_work() -> None:
    detector = small_detector()
    none = torch.zeros(0, 16, dtype=torch.int64)
    features = detector.encode_images(torch.zeros(0, 3, 64, 64))
    assert detector.score(features, torch.zeros(3, 16)).shape == (0, 16, 3)
    features = detector.encode_images(torch.zeros(2, 3, 64, 64))
    assert detector.score(features, detector.encode_text(none)).shape == (2, 16, 0)


def test_scores_stay_in_float32_under_autocast() -> None:
    detector = small_detector()
    features = detector.encode_images(torch.randn(1, 3, 64, 64))
    queries = torch.randn(3, 16)
    expected = detector.score(features, queries)
    with torch.autocast("cpu", torch.bfloat16):
        found = detector.score(features, queries)
    assert torch.equal(found, expected)


def test_images_and_queries_export_with_free_sizes() -> None:
    """Batch and number of queries stay inputs of an exported graph."""
    detector = small_detector()
    batch, count = torch.export.Dim("batch"), torch.export.Dim("count")

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = detector

        def forward(self, pixels: Tensor, queries: Tensor) -> Tensor:
            return self.detector.score(self.detector.encode_images(pixels), queries)

    sizes = ({0: batch}, {0: count})
    exported = torch.export.export(
        Both(), (torch.randn(2, 3, 64, 64), torch.randn(3, 16)), dynamic_shapes=sizes
    ).module()
    pixels, queries = torch.randn(5, 3, 64, 64), torch.randn(7, 16)
    torch.testing.assert_close(exported(pixels, queries), Both()(pixels, queries))


def test_misuse_is_explained() -> None:
    detector = small_detector()
    features = detector.encode_images(torch.zeros(1, 3, 64, 64))
    with pytest.raises(QueryError, match=r"\[Q, 16\] or \[1, Q, 16\], found \[3, 17\]"):
        detector.score(features, torch.zeros(3, 17))
    with pytest.raises(QueryError, match=r"found \[2, 3, 16\]"):
        detector.score(features, torch.zeros(2, 3, 16))
    with pytest.raises(QueryError, match=r"query_mask must be \[3\], found \[4\]"):
        detector.score(features, torch.zeros(3, 16), torch.ones(4))
    with pytest.raises(ConfigError, match="objectness"):
        detector.encode_images(torch.zeros(1, 3, 64, 64), objectness_top_k=4)
    with pytest.raises(QueryError, match="without a tokenizer"):
        detector.encode_strings(["a cat"])
