"""Configuration: typed sections with every key documented, and their YAML loader."""

from owlkit.config.fields import describe_fields
from owlkit.config.loader import dump_config, load_config
from owlkit.config.schema import (
    DetectorConfig,
    HeadsSection,
    ModelSection,
    PreprocessingSection,
    Section,
    TextSection,
    VisionSection,
)

__all__ = [
    "DetectorConfig",
    "HeadsSection",
    "ModelSection",
    "PreprocessingSection",
    "Section",
    "TextSection",
    "VisionSection",
    "describe_fields",
    "dump_config",
    "load_config",
]
