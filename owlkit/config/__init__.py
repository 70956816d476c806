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
from owlkit.config.schema import (
    ContrastiveConfig,
    DetectorConfig,
    RunConfig,
    SelfSupervisedConfig,
)
from owlkit.config.self_supervised import (
    BackboneSection,
    ByolSection,
    CropsSection,
    DinoSection,
    EndPhaseSection,
    ImageSetSection,
    ImagesSection,
    LabelledSetSection,
    MaeSection,
    SelfSupervisedEvalSection,
    SelfSupervisedLossSection,
)
from owlkit.config.training import EvalSection, LossSection, OptimSection, TrainSection

__all__ = [
    "AugmentSection",
    "BackboneSection",
    "ByolSection",
    "CaptionSetSection",
    "ClassSetSection",
    "ContrastiveConfig",
    "ContrastiveLossSection",
    "CropsSection",
    "DataSection",
    "DatasetSection",
    "DetectorConfig",
    "DinoSection",
    "DualEncoderSection",
    "EncoderEvalSection",
    "EndPhaseSection",
    "EvalSection",
    "EvaluationSetSection",
    "HeadsSection",
    "ImageSetSection",
    "ImagesSection",
    "LabelledSetSection",
    "LossSection",
    "MaeSection",
    "ModelSection",
    "OptimSection",
    "PairSetSection",
    "PairsSection",
    "PreprocessingSection",
    "QueriesSection",
    "RetrievalSetSection",
    "RunConfig",
    "Section",
    "SelfSupervisedConfig",
    "SelfSupervisedEvalSection",
    "SelfSupervisedLossSection",
    "TextSection",
    "TrainSection",
    "VisionSection",
    "describe_fields",
    "dump_config",
    "load_config",
]
