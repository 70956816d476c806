"""Small detectors of all kinds, with random weights in every head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import BertConfig, BertModel, SiglipTokenizer

from owlkit import OwlDetector
from owlkit.encoders import VisionTower, create_text_tower
from owlkit.encoders.siglip_text import create_siglip_text_tower
from owlkit.encoders.text import TextTower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.geometry import owlv2_preprocessing
from owlkit.models.convention import resolve_convention

_VIT: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2}
_PLAIN = "vit_base_patch16_clip_quickgelu_224"
_WIDTH = 32


def make_detector(
    vision: VisionTower, text: TextTower, tokenizer: Tokenizer | None, **options: Any
) -> OwlDetector:
    """A detector whose answers depend on the image and on every weight of its heads."""
    convention = options.pop("convention", "scenic")
    detector = OwlDetector(
        vision,
        text,
        preprocessing=owlv2_preprocessing(vision.image_size[0], convention),
        convention=resolve_convention(convention),
        tokenizer=tokenizer,
        **options,
    ).eval()
    torch.manual_seed(1)
    for head in (detector.class_head, detector.box_head, detector.objectness_head):
        for parameter in () if head is None else head.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return detector


def _clip_text() -> TextTower:
    return create_text_tower(
        width=32, depth=1, heads=2, vocab_size=300, context_length=16, embed_width=_WIDTH
    )


def _vit(name: str, size: int, **overrides: Any) -> VisionTower:
    return VisionTower(name, image_size=size, overrides=_VIT | overrides)


def class_token(tokenizer: Tokenizer) -> OwlDetector:
    """As OWLv2."""
    return make_detector(_vit(_PLAIN, 64), _clip_text(), tokenizer, objectness=True)


def conv_stem(tokenizer: Tokenizer) -> OwlDetector:
    """As the quickstart's: convolutions in front, mean pooled, no class token."""
    vision = _vit(_PLAIN, 32, patch_size=8, stem="conv", class_token=False, global_pool="avg")
    return make_detector(vision, _clip_text(), tokenizer, merge="none", convention="hf")


def dinov2(tokenizer: Tokenizer) -> OwlDetector:
    """Registers, LayerScale, positions resampled with antialias."""
    vision = VisionTower(
        "vit_small_patch14_reg4_dinov2",
        image_size=56,
        positions="bicubic_antialias",
        overrides=_VIT,
    )
    return make_detector(vision, _clip_text(), tokenizer)


def dinov3(tokenizer: Tokenizer) -> OwlDetector:
    """Rotary positions."""
    vision = _vit("vit_small_patch16_dinov3", 64)
    return make_detector(vision, _clip_text(), tokenizer, objectness=True)


def resnet(tokenizer: Tokenizer) -> OwlDetector:
    """The cells of a feature map."""
    return make_detector(VisionTower("resnet18", image_size=64), _clip_text(), tokenizer)


def bert(tokenizer: Tokenizer) -> OwlDetector:
    """A text tower that averages its tokens."""
    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    text = TextTower(BertModel(config), pool="mean", projection_width=_WIDTH)
    return make_detector(_vit(_PLAIN, 32), text, tokenizer)


def siglip(folder: Path) -> OwlDetector:
    """SigLIP's text tower, which reads all rows to the end, and its tokenizer."""
    text = create_siglip_text_tower(
        width=32, depth=1, heads=2, vocab_size=40, context_length=12, embed_width=_WIDTH
    )
    return make_detector(_vit(_PLAIN, 32), text, siglip_tokenizer(folder))


def siglip_tokenizer(folder: Path, *, rule: str = "nmt_nfkc") -> Tokenizer:
    """A SentencePiece model of 40 pieces behind SigLIP's tokenizer."""
    captions = ("a photo of a cat", "two dogs on a table", "a red mug near the river")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions * 3),
        model_prefix=str(folder / "spiece"),
        vocab_size=40,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name=rule,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    inner = SiglipTokenizer(str(folder / "spiece.model"), pad_token="</s>")
    return Tokenizer(inner, context_length=12)


KINDS: dict[str, Callable[[Tokenizer], OwlDetector]] = {
    made.__name__: made for made in (class_token, conv_stem, dinov2, dinov3, resnet, bert)
}
