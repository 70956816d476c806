"""From the `model` and `loss` sections of self-supervised pretraining to its task."""

import copy
import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from owlkit.build.images import view_sizes
from owlkit.build.towers import (
    backbone_preprocessing,
    build_preprocessing,
    build_vision,
    fill_in_weights,
)
from owlkit.config import BackboneSection, DinoSection, SelfSupervisedConfig
from owlkit.encoders.masked_decoder import MaskedDecoder
from owlkit.encoders.skip_init import SkipRandomInit
from owlkit.encoders.vision import VisionTower
from owlkit.engine import ByolTask, CollapseWatch, DistillationTask, MaskedAutoencodingTask
from owlkit.engine.schedule import cosine_ramp, linear_ramp
from owlkit.errors import ConfigError, InputSizeError
from owlkit.losses import DinoLoss, TeacherTargets
from owlkit.models import ImageBackbone
from owlkit.models.distillation import CropEncoder
from owlkit.models.distillation_heads import DistillationHead, ProjectionHead

logger = logging.getLogger(__name__)

SelfSupervisedTask = DistillationTask | MaskedAutoencodingTask | ByolTask

# Side of the input in pixels of random weights, as ImageNet's crops.
_IMAGE_SIZE = 224


def build_self_supervised_task(config: SelfSupervisedConfig) -> SelfSupervisedTask:
    """Makes a backbone and what teaches it.

    Args:
        config: Of the run; decides the random weights as well, and leaves the global random state
            as it was.

    Returns:
        The task, float32, on the CPU; its ``model`` is the backbone that is kept.

    Raises:
        ConfigError: If the sections do not fit together.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        masks = config.loss.objective == "dino" and config.loss.dino.ibot_weight > 0
        learner = build_backbone(config.model, mask_token=masks)
        _check_sizes(config, learner)
        if config.loss.objective == "mae":
            return _build_mae(config, learner)
        if config.loss.objective == "byol":
            return _build_byol(config, learner)
        return _build_dino(config, learner)


def build_backbone(config: BackboneSection, *, mask_token: bool = False) -> ImageBackbone:
    """Makes a tower to be trained on images alone.

    Args:
        config: The ``model`` section.
        mask_token: Whether the tower has a token for masked patches.

    Returns:
        The tower with its preprocessing, in training mode.
    """
    section = fill_in_weights(config.vision)
    config = config.model_copy(update={"vision": section})
    vision = build_vision(
        section, random_size=_IMAGE_SIZE, rescale_dropped=True, mask_token=mask_token
    )
    own = backbone_preprocessing(section, vision)
    return ImageBackbone(vision, build_preprocessing(config, vision, None, own=own)).train()


def _build_dino(config: SelfSupervisedConfig, learner: ImageBackbone) -> DistillationTask:
    dino = config.loss.dino
    student = CropEncoder(learner.vision, *_heads(dino, learner.vision))
    # One copy, so that a head that is shared stays shared.
    heads = copy.deepcopy((student.head, student.patch_head))
    teacher = CropEncoder(_without_dropout(student.vision), *heads)
    ibot = None
    if dino.ibot_weight:
        if not _has_separate_patches(student.vision):
            logger.info("the convolutions of the stem let masked patches be seen at their edges")
        ibot = TeacherTargets(
            dino.ibot_out_dim or dino.out_dim,
            centering=dino.centering,
            momentum=dino.center_momentum,
            iterations=dino.sinkhorn_iterations,
        )
    return DistillationTask(
        ImageBackbone(teacher.vision, learner.preprocessing),
        student,
        teacher,
        dino=DinoLoss(
            dino.out_dim,
            student_temperature=dino.student_temperature,
            centering=dino.centering,
            center_momentum=dino.center_momentum,
            sinkhorn_iterations=dino.sinkhorn_iterations,
        ),
        ibot=ibot,
        ibot_weight=dino.ibot_weight,
        koleo_weight=dino.koleo_weight,
        temperature=partial(
            linear_ramp,
            start=dino.warmup_teacher_temperature,
            end=dino.teacher_temperature,
            steps=dino.temperature_warmup_steps,
        ),
        momentum=_momentum(config),
        frozen_steps=dino.frozen_steps,
        collapse=_collapse_watch(config, dino.out_dim),
        accumulation=config.train.accumulation,
    )


def _heads(
    dino: DinoSection, vision: VisionTower
) -> tuple[DistillationHead, DistillationHead | None]:
    """The head of whole views, and that of patches: None, the same one, or one of its own."""
    make = partial(
        DistillationHead,
        hidden_width=dino.hidden_width,
        layers=dino.head_layers,
        batch_norm=dino.head_batch_norm,
        free_gain=dino.free_gain,
    )
    width = dino.bottleneck_width
    head = make(vision.pooled_width, dino.out_dim, bottleneck_width=width)
    if not dino.ibot_weight:
        return head, None
    if dino.ibot_head == "separate":
        width = dino.ibot_bottleneck_width or width
        patch_head = make(vision.width, dino.ibot_out_dim or dino.out_dim, bottleneck_width=width)
        return head, patch_head
    if vision.width != vision.pooled_width:
        raise ConfigError(
            f"loss.dino.ibot_head: expected separate, because the patches of {vision.name} are "
            f"{vision.width} wide and its image vectors {vision.pooled_width}; found shared"
        )
    return head, head


def _without_dropout(tower: VisionTower) -> VisionTower:
    """A second tower that drops nothing; its task gives it the weights of the first."""
    kept = {key: value for key, value in tower.overrides.items() if not key.endswith("drop_rate")}
    with SkipRandomInit():
        return VisionTower(**{**tower.spec, "drop_path": 0.0, "overrides": kept})


def _build_mae(config: SelfSupervisedConfig, learner: ImageBackbone) -> MaskedAutoencodingTask:
    mae, vision = config.loss.mae, learner.vision
    if vision.is_vit and not _has_separate_patches(vision):
        raise ConfigError(
            f"loss.objective: mae expects patches that are embedded each by itself, because what "
            f"is hidden must not be seen by its neighbours; found {vision.name} with overlapping "
            "convolutions (model.vision.overrides.stem)"
        )
    decoder = MaskedDecoder(
        vision.width,
        grid=vision.grid,
        patch_size=vision.patch_size,
        width=mae.decoder_width,
        depth=mae.decoder_depth,
        heads=mae.decoder_heads,
    )
    return MaskedAutoencodingTask(
        learner, decoder, mask_ratio=mae.mask_ratio, normalize_pixels=mae.normalize_pixels
    )


def _build_byol(config: SelfSupervisedConfig, learner: ImageBackbone) -> ByolTask:
    byol, vision = config.loss.byol, learner.vision
    projector = ProjectionHead(vision.pooled_width, byol.hidden_width, byol.width)
    target = {"vision": _without_dropout(vision), "projector": copy.deepcopy(projector)}
    return ByolTask(
        learner,
        projector,
        ProjectionHead(byol.width, byol.hidden_width, byol.width),
        nn.ModuleDict(target),
        momentum=_momentum(config),
        collapse=_collapse_watch(config, None),
    )


def _has_separate_patches(vision: VisionTower) -> bool:
    """Whether no patch of a vision transformer sees pixels of another one before attention."""
    size = vision.patch_size
    return getattr(vision.model.patch_embed.proj, "kernel_size", None) == (size, size)


def _momentum(config: SelfSupervisedConfig) -> Callable[[int], float]:
    """The teacher's by the step."""
    return partial(cosine_ramp, start=config.loss.momentum, end=1.0, total=config.train.steps)


def _collapse_watch(config: SelfSupervisedConfig, out_dim: int | None) -> CollapseWatch:
    after = config.loss.collapse_after
    never = config.train.steps + 1
    return CollapseWatch(out_dim, after=never if after is None else after)


def _check_sizes(config: SelfSupervisedConfig, model: ImageBackbone) -> None:
    """Refuses views that the tower cannot take, by their keys.

    Raises:
        ConfigError: If any does not fit the patches or windows.
    """
    vision = model.vision
    for key, size in view_sizes(config, model).items():
        if vision.is_vit:
            if size % vision.patch_size:
                raise ConfigError(
                    f"{key}: expected a multiple of the patch size {vision.patch_size} of "
                    f"{vision.name}, found {size}"
                )
            continue
        # What windows and strides take is known to nobody but the tower.
        try:
            with torch.no_grad():
                vision.eval()(torch.zeros(1, 3, size, size))
        except (InputSizeError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"{key}: expected a size that {vision.name} can take, found {size}: {error}"
            ) from error
    vision.train()
