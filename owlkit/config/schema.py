"""The roots of configuration files: one class for each kind of run."""

from typing import Self

from pydantic import Field, model_validator

from owlkit.config.base import Section, refuse_changed
from owlkit.config.data import DataSection
from owlkit.config.model import ModelSection
from owlkit.config.pretraining import (
    ContrastiveLossSection,
    DualEncoderSection,
    EncoderEvalSection,
    PairsSection,
)
from owlkit.config.self_supervised import (
    BackboneSection,
    CropsSection,
    ImagesSection,
    SelfSupervisedEvalSection,
    SelfSupervisedLossSection,
)
from owlkit.config.training import EvalSection, LossSection, OptimSection, TrainSection


class RunConfig(Section):
    """What every kind of run has."""

    name: str | None = Field(default=None, min_length=1, pattern=r"^[^/\\]+$")
    """Name of the run, a folder in `runs`; null takes the configuration file's."""

    runs: str = Field(default="runs", min_length=1)
    """Folder of all runs."""

    resume: bool = False
    """Go on with the run of this name from its last checkpoint; false starts anew, and refuses to
    if there is a run of this name already."""

    optim: OptimSection = Field(default_factory=OptimSection)
    """Optimiser, parameter groups, schedule and clipping."""

    train: TrainSection = Field(default_factory=TrainSection)
    """The loop."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of every random number: weights, data order, augmentation."""

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        warmup, cooldown = self.optim.warmup_steps, self.optim.cooldown_steps
        if warmup + cooldown >= self.train.steps:
            raise ValueError(
                f"expected optim.warmup_steps and optim.cooldown_steps to leave some of "
                f"train.steps, found {warmup} + {cooldown} of {self.train.steps}"
            )
        return self


class DetectorConfig(RunConfig):
    """Root of `configs/owl_*.yaml`: one open-vocabulary detector and how it is trained."""

    model: ModelSection = Field(default_factory=ModelSection)
    """The detector."""

    data: DataSection = Field(default_factory=DataSection)
    """Training and validation data."""

    loss: LossSection = Field(default_factory=LossSection)
    """Matching and losses."""

    eval: EvalSection = Field(default_factory=EvalSection)
    """How the model is measured."""

    @model_validator(mode="after")
    def _check_recipe(self) -> Self:
        pair = {self.optim.clip, self.loss.normalization}
        if "per_example" in pair and len(pair) == 2:
            raise ValueError(
                f"optim.clip is {self.optim.clip} and loss.normalization is "
                f"{self.loss.normalization}: per_example belongs with per_example. Global clipping "
                "of per-example losses cost 4 points of LVIS AP in OWL-ViT's ablation "
                "(https://arxiv.org/abs/2205.06230, table A5). Set both to per_example, or neither"
            )
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        if self.data.val.annotations is None:
            for key, value in (
                ("train.early_stopping", self.train.early_stopping),
                ("eval.split", self.eval.split),
            ):
                if value is not None:
                    raise ValueError(
                        f"{key} needs data to measure on: expected data.val.annotations, found null"
                    )
        return self


class ContrastiveConfig(RunConfig):
    """Root of `configs/clip_*.yaml`, `siglip_*.yaml`, `lit_*.yaml`: a pair of encoders."""

    model: DualEncoderSection = Field(default_factory=DualEncoderSection)
    """Image and text tower."""

    data: PairsSection = Field(default_factory=PairsSection)
    """Images with captions or classes."""

    loss: ContrastiveLossSection = Field(default_factory=ContrastiveLossSection)
    """How images and texts are compared."""

    eval: EncoderEvalSection = Field(default_factory=EncoderEvalSection)
    """How the encoders are measured."""

    @model_validator(mode="after")
    def _check_batches(self) -> Self:
        if self.optim.clip == "per_example":
            raise ValueError(
                "optim.clip: expected global or none, found per_example; the loss of a pair alone "
                "is 0"
            )
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        measured = self.data.val_captions.captions or self.data.val_classes.classes
        if self.train.early_stopping is not None and measured is None:
            raise ValueError(
                "train.early_stopping needs data to measure on: expected "
                "data.val_captions.captions or data.val_classes.classes, found null"
            )
        return self

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        if self.data.cache is None:
            return self
        if "image" not in self.optim.freeze:
            raise ValueError("data.cache keeps what a frozen tower says: set optim.freeze: [image]")
        if self.data.altered or self.loss.simclr_weight or self.loss.patch_dropout:
            raise ValueError(
                "data.cache keeps one vector of each picture: expected no data.flip, data.crop, "
                "data.colour_jitter, loss.simclr_weight and loss.patch_dropout"
            )
        if self.data.train.shards:
            raise ValueError("data.cache needs data.train.captions or classes, found shards")
        return self


class SelfSupervisedConfig(RunConfig):
    """Root of `configs/dino_*.yaml`, `dinov2_*.yaml`, `mae_*.yaml`, `byol_*.yaml`: a backbone."""

    model: BackboneSection = Field(default_factory=BackboneSection)
    """The image tower."""

    data: ImagesSection = Field(default_factory=ImagesSection)
    """Images and their views."""

    loss: SelfSupervisedLossSection = Field(default_factory=SelfSupervisedLossSection)
    """What is learned from them."""

    eval: SelfSupervisedEvalSection = Field(default_factory=SelfSupervisedEvalSection)
    """How the backbone is measured."""

    @model_validator(mode="after")
    def _check_learning(self) -> Self:
        if self.optim.freeze:
            raise ValueError(
                f"optim.freeze: expected nothing, found {list(self.optim.freeze)}; the image tower "
                "is what learns"
            )
        if self.optim.text_lr is not None:
            raise ValueError("optim.text_lr: expected null, because there is no text tower")
        if self.optim.clip == "per_example":
            raise ValueError(
                "optim.clip: expected global, per_parameter or none, found per_example; the images "
                "of a batch pass together"
            )
        if self.train.ema_decay and self.loss.objective != "mae":
            raise ValueError(
                f"train.ema_decay: expected 0, found {self.train.ema_decay}; the teacher of "
                f"{self.loss.objective} is a moving average already, see loss.momentum"
            )
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        frozen, steps = self.loss.dino.frozen_steps, self.train.steps
        if frozen >= steps:
            raise ValueError(
                f"loss.dino.frozen_steps: expected less than train.steps ({steps}), so that the "
                f"prototypes learn at all; found {frozen}"
            )
        part = self.train.batch_size // self.train.accumulation
        if self.loss.objective == "byol" and part < 2:
            raise ValueError(
                "train.batch_size: byol normalises over the images of a batch, or a part of one, "
                f"and expects 2 or more; found {part}"
            )
        return self

    @model_validator(mode="after")
    def _check_views(self) -> Self:
        objective, end = self.loss.objective, self.data.end_phase
        if objective != "dino":
            local = ("local_size", "local_crops", "local_area")
            _refuse_crops(self.data.crops, local, objective)
            if end.local_size is not None:
                raise ValueError(
                    f"data.end_phase.local_size: expected null, because {objective} has no local "
                    f"views, found {end.local_size}"
                )
        if objective == "mae":
            # It draws the patches of the model's own input, in their own colours.
            keys = ("jitter", "jittered", "grey", "blur", "blur_sigma", "solarize", "aspect")
            _refuse_crops(self.data.crops, ("global_size", *keys), objective)
            if end.steps:
                raise ValueError(
                    f"data.end_phase.steps: expected 0, because the decoder of mae draws one grid "
                    f"of patches, found {end.steps}"
                )
        if end.steps >= self.train.steps:
            raise ValueError(
                f"data.end_phase.steps: expected less than train.steps ({self.train.steps}), found "
                f"{end.steps}"
            )
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        if self.train.early_stopping is not None and self.data.val_classes.classes is None:
            raise ValueError(
                "train.early_stopping needs data to measure on: expected data.bank_classes.classes "
                "and data.val_classes.classes, found null"
            )
        return self


def _refuse_crops(crops: CropsSection, keys: tuple[str, ...], objective: str) -> None:
    refuse_changed(crops, keys, decided_by=f"loss.objective={objective}", section="data.crops.")
