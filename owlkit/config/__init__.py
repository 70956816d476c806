"""Configuration: typed sections with every key documented, and their YAML loader."""

from owlkit.config.base import Section
from owlkit.config.data import (
    AugmentSection,
    DataSection,
    DatasetSection,
    EvaluationSetSection,
    QueriesSection,
)
from owlkit.config.fields import describe_fields
from owlkit.config.loader import dump_config, load_config
from owlkit.config.model import (
    HeadsSection,
    ModelSection,
    PreprocessingSection,
    TextSection,
    VisionSection,
)
from owlkit.config.pretraining import (
    CaptionSetSection,
    ClassSetSection,
    ContrastiveLossSection,
    DualEncoderSection,
    EncoderEvalSection,
    PairSetSection,
    PairsSection,
    RetrievalSetSection,
)
from owlkit.config.schema import ContrastiveConfig, DetectorConfig, RunConfig
from owlkit.config.training import EvalSection, LossSection, OptimSection, TrainSection

__all__ = [
    "AugmentSection",
    "CaptionSetSection",
    "ClassSetSection",
    "ContrastiveConfig",
    "ContrastiveLossSection",
    "DataSection",
    "DatasetSection",
    "DetectorConfig",
    "DualEncoderSection",
    "EncoderEvalSection",
    "EvalSection",
    "EvaluationSetSection",
    "HeadsSection",
    "LossSection",
    "ModelSection",
    "OptimSection",
    "PairSetSection",
    "PairsSection",
    "PreprocessingSection",
    "QueriesSection",
    "RetrievalSetSection",
    "RunConfig",
    "Section",
    "TextSection",
    "TrainSection",
    "VisionSection",
    "describe_fields",
    "dump_config",
    "load_config",
]
