"""Random models of transformers' own classes, the oracle for everything about its formats."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
)

_CLASSES: dict[str, tuple[Any, Any, Any, Any]] = {
    "owlvit": (OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor),
    "owlv2": (Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor),
}


def make_owl(
    model_type: str,
    *,
    image_size: int = 64,
    patch_size: int = 16,
    width: int = 64,
    depth: int = 2,
    text_width: int = 32,
    vocab_size: int = 300,
) -> Any:
    """A model whose every parameter is random, so that a swapped or skipped one shows."""
    config_class, model_class, _, _ = _CLASSES[model_type]
    config = config_class(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": text_width,
            "intermediate_size": 2 * text_width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 16,
            "bos_token_id": vocab_size - 2,
            "eos_token_id": vocab_size - 1,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": 4,
            "image_size": image_size,
            "patch_size": patch_size,
        },
        projection_dim=text_width,
    )
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(offset + 0.1 * noise)
    return model


def save_owl_folder(model: Any, folder: Path, tokenizer_folder: Path) -> None:
    """Writes model, image processor and tokenizer as transformers does."""
    _, _, processor_class, both_class = _CLASSES[model.config.model_type]
    size = model.config.vision_config.image_size
    model.save_pretrained(folder)
    image_processor = processor_class(size={"height": size, "width": size})
    both_class(image_processor, AutoTokenizer.from_pretrained(tokenizer_folder)).save_pretrained(
        folder
    )
