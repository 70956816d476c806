"""Small CLIP and SigLIP models of transformers' own classes, and pairs of other towers."""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from owlkit.encoders import VisionTower
from owlkit.encoders.text import TextTower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.geometry import owlvit_preprocessing
from owlkit.models import DualEncoder
from tests.export.models import siglip_tokenizer

_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
# Enough for the prompts of any list.
_CONTEXT = 48
_VISION: dict[str, Any] = {**_TOWER, "image_size": 32, "patch_size": 8}


def save_clip(folder: Path, tokenizer: Tokenizer) -> Any:
    """Writes a CLIP with every parameter random, and returns it."""
    ids = {"vocab_size": 300, "bos_token_id": 298, "eos_token_id": 299, "pad_token_id": 0}
    text = {**_TOWER, **ids, "max_position_embeddings": _CONTEXT}
    config = CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)
    torch.manual_seed(0)
    return _saved(CLIPModel(config), folder, tokenizer, logit_scale=20.0)


def save_siglip(folder: Path) -> Any:
    """Writes a SigLIP with every parameter random, and returns it."""
    folder.mkdir()
    tokenizer = siglip_tokenizer(folder)
    text = {**_TOWER, "vocab_size": 40, "max_position_embeddings": _CONTEXT, "projection_size": 32}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=_VISION))
    return _saved(model, folder, tokenizer, logit_scale=10.0, logit_bias=-2.5)


def _saved(model: Any, folder: Path, tokenizer: Tokenizer, **scalars: float) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.logit_scale.fill_(math.log(scalars["logit_scale"]))
        if "logit_bias" in scalars:
            model.logit_bias.fill_(scalars["logit_bias"])
    model.save_pretrained(folder)
    tokenizer.with_context_length(_CONTEXT).save_pretrained(folder)
    return model.eval()


def make_lit(tokenizer: Tokenizer | None) -> DualEncoder:
    """A feature map's mean beside BERT, and no projection of images."""
    torch.manual_seed(0)
    vision = VisionTower("resnet18", image_size=64)
    bert = BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    text = TextTower(BertModel(bert), pool="mean", projection_width=vision.pooled_width)
    return DualEncoder(
        vision,
        text,
        preprocessing=owlvit_preprocessing((64, 64), "scenic"),
        image_projection=False,
        tokenizer=tokenizer,
    ).eval()
