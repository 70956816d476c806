"""Backbones whose result is a feature map: ResNet (also CLIP's), ConvNeXt, Swin."""

from typing import Any

from torch import Tensor

from owlkit.structures import PatchFeatures


def encode_feature_map(model: Any, pixel_values: Tensor) -> PatchFeatures:
    """Turns the last feature map into patch tokens.

    Args:
        model: A timm model without classifier (``num_classes=0``).
        pixel_values: Normalised images [B, 3, H, W].

    Returns:
        One token per cell of the map, row-major; pooled as the model pools before its classifier
        (mean, or CLIP's attention pool).
    """
    features = model.forward_features(pixel_values)
    pooled = model.forward_head(features, pre_logits=True)
    if getattr(model, "output_fmt", "NCHW") != "NHWC":
        features = features.permute(0, 2, 3, 1)
    grid = (features.shape[1], features.shape[2])
    return PatchFeatures(tokens=features.flatten(1, 2), pooled=pooled.flatten(1), grid=grid)
