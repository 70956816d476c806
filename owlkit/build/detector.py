"""From the `model` section to a detector."""

from typing import Any

import torch

from owlkit.build.paths import filled_in
from owlkit.build.towers import (
    adapt_vision,
    build_preprocessing,
    build_text,
    build_tokenizer,
    build_vision,
    fill_in_towers,
    fit_context,
    prepare_text,
)
from owlkit.config import ModelSection
from owlkit.encoders.hub import load_exactly
from owlkit.encoders.text import OWL_CONTEXT_LENGTH
from owlkit.encoders.vision import VisionTower
from owlkit.geometry import Preprocessing, owlvit_preprocessing
from owlkit.models import DualEncoder, OwlDetector
from owlkit.models.convention import resolve_convention
from owlkit.models.loading import load_model


def build_detector(config: ModelSection, *, seed: int = 0) -> OwlDetector:
    """Makes a detector, untrained or on trained towers.

    Args:
        config: The ``model`` section.
        seed: Of random weights; the global random state is left as it was.

    Returns:
        The detector in training mode, float32, on the CPU.

    Raises:
        ConfigError: If the sections do not fit together.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    config = fill_in_towers(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        source = _source(config)
        if source is None:
            vision = build_vision(config.vision)
            text = build_text(config.text, context_length=OWL_CONTEXT_LENGTH)
        else:
            vision, text = adapt_vision(source.vision, config.vision), source.text
        keeps_length = isinstance(source, OwlDetector)
        text = fit_context(
            text,
            config.text.context_length,
            clip_length=None if keeps_length else OWL_CONTEXT_LENGTH,
        )
        prepare_text(text, config.text)
        detector = OwlDetector(
            vision,
            text,
            preprocessing=build_preprocessing(
                config, vision, source, own=_own_preprocessing(vision, source)
            ),
            **_head_settings(config, source),
            prior_prob=config.heads.prior_prob,
            tokenizer=build_tokenizer(config, source, text),
        )
    if source is not None:
        _take_over(detector, source)
    return detector.train()


def _source(config: ModelSection) -> DualEncoder | OwlDetector | None:
    """The model whose weights start the detector."""
    if config.init_from is None:
        return None
    return load_model(filled_in(config.init_from, key="model.init_from"), config.convention)


def _own_preprocessing(
    vision: VisionTower, source: DualEncoder | OwlDetector | None
) -> Preprocessing:
    """A detector's is kept; any other start is trained as OWL-ViT was published."""
    if isinstance(source, OwlDetector):
        return source.preprocessing
    return owlvit_preprocessing(vision.image_size, "scenic")


def _head_settings(
    config: ModelSection, source: DualEncoder | OwlDetector | None
) -> dict[str, Any]:
    """What is not stated is as in the source if that is a detector, else as published."""
    heads = config.heads
    if isinstance(source, OwlDetector):
        merge, convention = source.merge, source.convention
        objectness = source.objectness_head is not None
    else:
        merge, convention = "class_token", resolve_convention(config.convention or "scenic")
        objectness = False
    return {
        "merge": heads.merge or merge,
        "objectness": objectness if heads.objectness is None else heads.objectness,
        "convention": convention,
    }


def _take_over(detector: OwlDetector, source: DualEncoder | OwlDetector) -> None:
    """Carries over what lies outside the towers: heads, or the contrastive projection."""
    if source.image_projection is not None:
        detector.keep_projection(source.image_projection.weight.data, source.logit_scale.data)
    if isinstance(source, OwlDetector):
        heads = ("merge_norm.", "class_head.", "box_head.", "objectness_head.")
        trained = {k: v for k, v in source.state_dict().items() if k.startswith(heads)}
        own = detector.state_dict()
        load_exactly(
            detector, {**own, **{k: trained[k] for k in trained if k in own}}, source="heads"
        )
