"""From the `model` section of stage one to a pair of encoders."""

import math

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
    own_preprocessing,
    prepare_text,
)
from owlkit.config import ContrastiveLossSection, DualEncoderSection
from owlkit.models import DualEncoder
from owlkit.models.loading import load_dual_encoder

# Tokens of a text, as of CLIP's.
_CONTEXT_LENGTH = 77


def build_dual_encoder(
    config: DualEncoderSection,
    *,
    loss: ContrastiveLossSection | None = None,
    batch_size: int = 2,
    seed: int = 0,
) -> DualEncoder:
    """Makes a pair of towers to be trained on images and texts.

    Args:
        config: The ``model`` section.
        loss: The ``loss`` section, which says whether there is a bias beside the temperature, and
            where both start; None for CLIP's.
        batch_size: Pairs that are compared at a step, from which SigLIP's bias follows.
        seed: Of random weights; the global random state is left as it was.

    Returns:
        The model in training mode, float32, on the CPU.

    Raises:
        ConfigError: If the sections do not fit together.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    config = fill_in_towers(config)
    loss = loss or ContrastiveLossSection()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        source = _source(config)
        if source is None:
            vision = build_vision(config.vision)
            text = build_text(config.text, context_length=_CONTEXT_LENGTH)
            own = own_preprocessing(config.vision, vision)
        else:
            vision, text = adapt_vision(source.vision, config.vision), source.text
            own = source.preprocessing
        text = fit_context(text, config.text.context_length)
        prepare_text(text, config.text)
        model = DualEncoder(
            vision,
            text,
            preprocessing=build_preprocessing(config, vision, source, own=own),
            image_projection=_has_projection(config, source),
            logit_bias=loss.objective == "siglip",
            tokenizer=build_tokenizer(config, source, text),
        )
    if source is not None:
        _take_over(model, source)
    _start_logits(model, loss, batch_size=batch_size, source=source)
    return model.train()


def _source(config: DualEncoderSection) -> DualEncoder | None:
    if config.init_from is None:
        return None
    return load_dual_encoder(filled_in(config.init_from, key="model.init_from"))


def _has_projection(config: DualEncoderSection, source: DualEncoder | None) -> bool:
    if source is not None:
        return source.image_projection is not None
    return config.image_projection is not False


@torch.no_grad()
def _take_over(model: DualEncoder, source: DualEncoder) -> None:
    """Carries over what lies outside the towers, as far as both have it."""
    if model.image_projection is not None and source.image_projection is not None:
        model.image_projection.load_state_dict(source.image_projection.state_dict())
    model.logit_scale.copy_(source.logit_scale)
    if model.logit_bias is not None and source.logit_bias is not None:
        model.logit_bias.copy_(source.logit_bias)


@torch.no_grad()
def _start_logits(
    model: DualEncoder,
    loss: ContrastiveLossSection,
    *,
    batch_size: int,
    source: DualEncoder | None,
) -> None:
    """Temperature and bias at the start, where they are stated or the source has none."""
    if model.logit_bias is not None and (source is None or source.logit_bias is None):
        # One pair of `batch_size` is right: the logit of that share. CLIP's temperature would make
        # every wrong pair a confident mistake.
        model.logit_bias.fill_(-math.log(max(batch_size - 1, 1)))
        model.logit_scale.fill_(math.log(10))
    if loss.logit_scale is not None:
        model.logit_scale.fill_(math.log(loss.logit_scale))
    if model.logit_bias is not None and loss.logit_bias is not None:
        model.logit_bias.fill_(loss.logit_bias)
