"""The schema: every key documented, bounded and read, defaults those of the published models."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import owlkit
from owlkit.config import (
    AugmentSection,
    BackboneSection,
    ByolSection,
    ClassSetSection,
    ContrastiveConfig,
    ContrastiveLossSection,
    CropsSection,
    DataSection,
    DatasetSection,
    DetectorConfig,
    DinoSection,
    DualEncoderSection,
    EncoderEvalSection,
    EndPhaseSection,
    EvalSection,
    EvaluationSetSection,
    HeadsSection,
    ImageSetSection,
    ImagesSection,
    LabelledSetSection,
    LossSection,
    MaeSection,
    ModelSection,
    OptimSection,
    PairSetSection,
    PairsSection,
    PreprocessingSection,
    QueriesSection,
    RetrievalSetSection,
    Section,
    SelfSupervisedConfig,
    SelfSupervisedEvalSection,
    SelfSupervisedLossSection,
    TextSection,
    TrainSection,
    VisionSection,
    describe_fields,
)
from owlkit.config.fields import section_at, walk_fields


def _sections(section: type[BaseModel]) -> list[type[BaseModel]]:
    below = [section_at(section, (name,)) for name in section.model_fields]
    return [section] + [each for child in below if child for each in _sections(child)]


ROOTS = (DetectorConfig, ContrastiveConfig, SelfSupervisedConfig)
SECTIONS = list(dict.fromkeys(section for root in ROOTS for section in _sections(root)))


def test_the_walk_finds_all_sections() -> None:
    expected = {
        DetectorConfig,
        ModelSection,
        VisionSection,
        TextSection,
        HeadsSection,
        PreprocessingSection,
        DataSection,
        DatasetSection,
        EvaluationSetSection,
        AugmentSection,
        QueriesSection,
        LossSection,
        OptimSection,
        TrainSection,
        EvalSection,
        ContrastiveConfig,
        DualEncoderSection,
        PairsSection,
        PairSetSection,
        RetrievalSetSection,
        ClassSetSection,
        ContrastiveLossSection,
        EncoderEvalSection,
        SelfSupervisedConfig,
        BackboneSection,
        ImagesSection,
        ImageSetSection,
        LabelledSetSection,
        CropsSection,
        EndPhaseSection,
        SelfSupervisedLossSection,
        DinoSection,
        MaeSection,
        ByolSection,
        SelfSupervisedEvalSection,
    }
    assert set(SECTIONS) == expected


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_says_what_it_is(section: type[BaseModel]) -> None:
    undocumented = [name for name, field in section.model_fields.items() if not field.description]
    assert undocumented == []


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_section_is_strict_closed_and_frozen(section: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        section.model_validate({"no_such_key": 1})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section(), next(iter(section.model_fields)), None)
    assert issubclass(section, Section)


def test_two_configs_do_not_share_a_mutable_default() -> None:
    first, second = DetectorConfig(), DetectorConfig()
    first.model.vision.overrides["depth"] = 2
    assert second.model.vision.overrides == {}
    assert VisionSection().overrides == {}


@pytest.mark.parametrize(
    ("section", "values"),
    [
        pytest.param(VisionSection, {"image_size": 0}, id="an image has a size"),
        pytest.param(VisionSection, {"image_size": "768"}, id="text is not a number"),
        pytest.param(VisionSection, {"image_size": 768.0}, id="a size is whole"),
        pytest.param(VisionSection, {"drop_path": 1.0}, id="some blocks must remain"),
        pytest.param(VisionSection, {"drop_path": -0.1}, id="rates are not negative"),
        pytest.param(VisionSection, {"drop_path": float("nan")}, id="nan is no rate"),
        pytest.param(VisionSection, {"positions": "bilinear"}, id="not one of the choices"),
        pytest.param(VisionSection, {"gradient_checkpointing": 1}, id="1 is not true"),
        pytest.param(VisionSection, {"overrides": {"depth": [2]}}, id="overrides are scalars"),
        pytest.param(VisionSection, {"weights": "x", "name": "y"}, id="a folder knows its model"),
        pytest.param(VisionSection, {"weights": "hub", "init": "timm"}, id="nothing to initialise"),
        pytest.param(TextSection, {"depth": True}, id="true is not 1"),
        pytest.param(TextSection, {"heads": 0}, id="no attention head"),
        pytest.param(TextSection, {"width": 100, "heads": 8}, id="heads divide the width"),
        pytest.param(TextSection, {"context_length": 1}, id="start and end need two places"),
        pytest.param(TextSection, {"weights": "x", "width": 64}, id="weights decide the width"),
        pytest.param(HeadsSection, {"prior_prob": 0.0}, id="its logit is minus infinity"),
        pytest.param(HeadsSection, {"prior_prob": 1.0}, id="its logit is infinity"),
        pytest.param(PreprocessingSection, {"pad_value": 127}, id="pixels are in [0, 1]"),
        pytest.param(PreprocessingSection, {"std": [0.2, 0.0, 0.2]}, id="division by zero"),
        pytest.param(PreprocessingSection, {"mean": [0.5, 0.5]}, id="two channels"),
        pytest.param(PreprocessingSection, {"mean": ["0.5"] * 3}, id="text among the means"),
        pytest.param(DetectorConfig, {"seed": -1}, id="seeds are not negative"),
        pytest.param(DataSection, {"val": {"exhaustive": True}}, id="only training asks"),
        pytest.param(DataSection, {"val": {"weight": 2.0}}, id="there is one to measure on"),
        pytest.param(CropsSection, {"blur": [1.0, 0.1]}, id="three kinds of views"),
        pytest.param(CropsSection, {"jitter": [0.4, 0.4, 0.2, 0.6]}, id="hue is half a circle"),
        pytest.param(CropsSection, {"local_area": [0.4, 0.05]}, id="least before most"),
        pytest.param(CropsSection, {"global_area": [0.4, 1.1]}, id="more than the picture"),
        pytest.param(DinoSection, {"mask_ratio": [0.1, 1.0], "ibot_weight": 1}, id="some are seen"),
        pytest.param(MaeSection, {"decoder_width": 100, "decoder_heads": 16}, id="heads divide it"),
    ],
)
def test_values_out_of_range_are_refused(section: type[Section], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section.model_validate(values)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        pytest.param(VisionSection, {"drop_path": 0}, id="a whole number is a number"),
        pytest.param(PreprocessingSection, {"mean": [0, 0, 0], "std": [1, 1, 1]}, id="lists"),
        pytest.param(PreprocessingSection, {"pad_value": 1.0}, id="white"),
        pytest.param(VisionSection, {"weights": "hub", "name": "y"}, id="a published model"),
        pytest.param(VisionSection, {"weights": "x", "drop_path": 0.1}, id="a model in a folder"),
        pytest.param(TextSection, {"weights": "x", "pool": None}, id="the text model chooses"),
        pytest.param(TextSection, {"weights": "x", "context_length": 32}, id="a shorter context"),
        pytest.param(
            ModelSection,
            {"init_from": "x", "vision": {"image_size": 960}, "heads": {"objectness": True}},
            id="what a start does not decide",
        ),
    ],
)
def test_sensible_values_are_taken(section: type[Section], values: dict[str, Any]) -> None:
    config = section.model_validate(values)
    assert config.model_dump(include=set(values), exclude_unset=True, mode="json") == values


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"vision": {"name": "vit_tiny_patch16_224"}}, "vision.name"),
        ({"vision": {"weights": "hub"}}, "vision.weights"),
        ({"vision": {"overrides": {"depth": 2}}}, "vision.overrides"),
        ({"text": {"depth": 2}}, "text.depth"),
        ({"text": {"pool": "last"}}, "text.pool"),
        ({"text": {"weights": "folder"}}, "text.weights"),
    ],
)
def test_a_key_that_init_from_would_ignore_is_refused(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} cannot be set as well: init_from decides"):
        ModelSection.model_validate({"init_from": "folder", **values})
    ModelSection.model_validate(values)


PER_EXAMPLE = "Set both to per_example, or neither"


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (DetectorConfig, {"optim": {"clip": "per_example"}}, PER_EXAMPLE),
        (DetectorConfig, {"loss": {"normalization": "per_example"}}, PER_EXAMPLE),
        (
            DetectorConfig,
            {"loss": {"normalization": "per_example"}, "optim": {"clip": "none"}},
            "clip is none and loss.normalization is per_example",
        ),
        (DetectorConfig, {"train": {"early_stopping": 3}}, "train.early_stopping needs data to"),
        (DetectorConfig, {"eval": {"split": "x"}}, "eval.split needs data to measure on"),
        (
            ContrastiveConfig,
            {"model": {"text": {"architecture": "siglip", "pool": "mean"}}},
            "siglip reads its last position; pool is mean",
        ),
        (ContrastiveConfig, {"train": {"early_stopping": 3}}, "data.val_captions.captions or"),
        (DetectorConfig, {"train": {"steps": 1000}}, "found 1000 \\+ 0 of 1000"),
        (
            ContrastiveConfig,
            {
                "train": {"steps": 50},
                "optim": {"schedule": "constant", "warmup_steps": 20, "cooldown_steps": 30},
            },
            "leave some of train.steps, found 20 \\+ 30 of 50",
        ),
        (SelfSupervisedConfig, {"optim": {"freeze": ["image"]}}, "the image tower is what learns"),
        (SelfSupervisedConfig, {"optim": {"text_lr": 1e-3}}, "there is no text tower"),
        (SelfSupervisedConfig, {"optim": {"clip": "per_example"}}, "images of a batch pass togeth"),
        (SelfSupervisedConfig, {"train": {"ema_decay": 0.9}}, "see loss.momentum"),
        (SelfSupervisedConfig, {"train": {"early_stopping": 3}}, "data.bank_classes.classes and"),
        (
            SelfSupervisedConfig,
            {"data": {"val_classes": {"classes": "x"}}},
            "expected both of bank_classes.classes and val_classes.classes",
        ),
        (
            SelfSupervisedConfig,
            {"data": {"train": {"images": "x", "classes": "y"}}},
            r"found \['images', 'classes'\]",
        ),
        (SelfSupervisedConfig, {"data": {"train": {"split": "x"}}}, "split belongs to captions"),
        (
            SelfSupervisedConfig,
            {"data": {"end_phase": {"steps": 200_000, "global_size": 518}}},
            "data.end_phase.steps: expected less than train.steps",
        ),
        (SelfSupervisedConfig, {"data": {"end_phase": {"steps": 9}}}, "global_size or local_size"),
        (
            SelfSupervisedConfig,
            {"data": {"end_phase": {"global_size": 518}}},
            "global_size cannot be set as well: steps=0 decides it",
        ),
    ],
)
def test_sections_that_do_not_fit_together_are_refused(
    schema: type[Section], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        schema.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {"loss": {"normalization": "per_example"}, "optim": {"clip": "per_example"}},
        {"optim": {"clip": "none"}},
        {"train": {"early_stopping": 3}, "data": {"val": {"annotations": "x"}}},
        {"train": {"steps": 1001}},
    ],
)
def test_sections_that_fit_together_are_taken(values: dict[str, Any]) -> None:
    DetectorConfig.model_validate(values)


@pytest.mark.parametrize(
    ("objective", "values", "message"),
    [
        ("mae", {"loss": {"dino": {"out_dim": 64}}}, "dino cannot be set as well: objective=mae"),
        ("dino", {"loss": {"byol": {"width": 64}}}, "byol cannot be set as well: objective=dino"),
        ("byol", {"loss": {"mae": {"mask_ratio": 0.5}}}, "mae cannot be set as well"),
        ("mae", {"loss": {"momentum": 0.9}}, "momentum cannot be set as well: objective=mae"),
        ("mae", {"loss": {"collapse_after": None}}, "collapse_after cannot be set as well"),
        ("byol", {"data": {"crops": {"local_crops": 2}}}, "data.crops.local_crops cannot be set"),
        ("mae", {"data": {"crops": {"local_size": 32}}}, "loss.objective=mae decides it"),
        ("mae", {"data": {"crops": {"grey": 0.0}}}, "data.crops.grey cannot be set as well"),
        ("mae", {"data": {"crops": {"global_size": 64}}}, "data.crops.global_size cannot be set"),
        ("mae", {"data": {"end_phase": {"steps": 1, "global_size": 64}}}, "one grid of patches"),
        ("byol", {"data": {"end_phase": {"steps": 1, "local_size": 64}}}, "has no local views"),
        ("dino", {"loss": {"dino": {"mask_probability": 1.0}}}, "ibot_weight=0 decides it"),
        (
            "dino",
            {"data": {"crops": {"local_crops": 0, "local_size": 64}}},
            "local_size cannot be set as well: local_crops=0 decides it",
        ),
        ("dino", {"loss": {"dino": {"sinkhorn_iterations": 5}}}, "centering=centering decides it"),
        (
            "dino",
            {"loss": {"dino": {"centering": "sinkhorn_knopp", "center_momentum": 0.5}}},
            "centering=sinkhorn_knopp decides it",
        ),
        (
            "dino",
            {"loss": {"dino": {"ibot_weight": 1, "ibot_out_dim": 64}}},
            "ibot_out_dim cannot be set as well: ibot_head=shared",
        ),
        (
            "dino",
            {"loss": {"dino": {"ibot_weight": 1, "ibot_bottleneck_width": 64}}},
            "ibot_bottleneck_width cannot be set as well: ibot_head=shared",
        ),
        (
            "dino",
            {"loss": {"dino": {"warmup_teacher_temperature": 0.05}}},
            "temperature_warmup_steps=0 decides it",
        ),
    ],
)
def test_a_key_of_another_objective_is_refused(
    objective: str, values: dict[str, Any], message: str
) -> None:
    values = {**values, "loss": {"objective": objective, **values.get("loss", {})}}
    with pytest.raises(ValidationError, match=message):
        SelfSupervisedConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"loss": {"dino": {"frozen_steps": 10}}, "train": {"steps": 10}},
            r"frozen_steps: expected less than train\.steps \(10\)",
        ),
        (
            {"loss": {"objective": "byol"}, "train": {"batch_size": 4, "accumulation": 4}},
            "byol normalises over the images of a batch.*expects 2 or more; found 1",
        ),
    ],
    ids=["prototypes that never learn", "a norm of one vector"],
)
def test_what_could_not_learn_is_refused(values: dict[str, Any], message: str) -> None:
    values = {**values, "optim": {"warmup_steps": 1}}
    with pytest.raises(ValidationError, match=message):
        SelfSupervisedConfig.model_validate(values)


def test_an_average_of_an_autoencoder_is_no_second_teacher() -> None:
    values = {"loss": {"objective": "mae"}, "train": {"ema_decay": 0.999}}
    assert SelfSupervisedConfig.model_validate(values).train.ema_decay == 0.999


def test_every_key_is_read() -> None:
    root = Path(owlkit.__file__).parent
    source = "\n".join(
        path.read_text()
        for part in ("build", "engine", "cli")
        for path in root.glob(f"{part}/*.py")
    )
    names = {name for section in SECTIONS for name in section.model_fields}
    unread = sorted(name for name in names if not re.search(rf"\.{name}\b", source))
    assert unread == []


def test_the_table_has_every_key_with_its_default_type_and_limits() -> None:
    table = describe_fields(DetectorConfig)
    keys = [line.split()[0] for line in table.splitlines() if not line.startswith(" ")]
    assert keys == [key for key, _ in walk_fields(DetectorConfig)]
    assert "model.vision.drop_path" in keys
    assert max(len(line) for line in table.splitlines()) <= 100

    lines = table.splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("model.vision.drop_path "))
    assert lines[row].split() == ["model.vision.drop_path", "0.0"]
    assert lines[row + 1].startswith("    number, >= 0, < 1. Largest stochastic-depth rate")
    assert "    scenic | hf | null. Where the original" in table
    assert "    text | null. Hub id" in table
    assert "    true | false | null. Whether there is OWLv2's" in table
    assert "    [number, number, number] | null. Divides" in table
    assert "    [image | text | heads, ...]. " in table
    assert "    [DatasetSection, ...]. " in table
    assert "    {text: integer | number | true | false | text}. Keyword" in table


def test_the_table_marks_what_must_be_given() -> None:
    class Root(Section):
        path: str
        """Where."""

    assert describe_fields(Root) == "path  required\n    text. Where.\n"
