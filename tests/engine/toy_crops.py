"""Self-supervised tasks that take milliseconds, and crops for them."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from owlkit.encoders import VisionTower
from owlkit.engine.collapse import CollapseWatch
from owlkit.engine.distillation import DistillationTask
from owlkit.geometry import owlvit_preprocessing
from owlkit.losses import DinoLoss, TeacherTargets
from owlkit.models import ImageBackbone
from owlkit.models.distillation import CropEncoder
from owlkit.models.distillation_heads import DistillationHead
from owlkit.structures import CropBatch

PROTOTYPES = 12
NEVER = 10**9


def make_tower(*, mask_token: bool = False, drop_path: float = 0.0, seed: int = 0) -> VisionTower:
    """Two blocks, 16 wide, for images of 16 x 16 in patches of 4."""
    sizes: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tower = VisionTower(
            "vit_tiny_patch16_224",
            image_size=16,
            mask_token=mask_token,
            drop_path=drop_path,
            overrides=sizes,
        )
        for weight in tower.parameters():  # images differ more than in a fresh tower
            nn.init.normal_(weight, std=0.2)
        return tower


def make_backbone(tower: VisionTower) -> ImageBackbone:
    return ImageBackbone(tower, owlvit_preprocessing((16, 16), "scenic"))


def make_encoder(*, patches: bool = False, drop_path: float = 0.0, seed: int = 0) -> CropEncoder:
    tower = make_tower(mask_token=patches, drop_path=drop_path, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = [
            DistillationHead(16, PROTOTYPES, hidden_width=16, bottleneck_width=8)
            for _ in range(1 + patches)
        ]
        for weight in nn.ModuleList(heads).parameters():
            nn.init.normal_(weight, std=0.3)
    return CropEncoder(tower, *heads)


def make_task(
    *,
    patches: bool = False,
    centering: Any = "centering",
    center_momentum: float = 0.9,
    drop_path: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> DistillationTask:
    student = make_encoder(patches=patches, drop_path=drop_path, seed=seed)
    teacher = make_encoder(patches=patches, seed=seed + 1)
    settings: dict[str, Any] = {
        "temperature": lambda step: 0.04 + 0.01 * step,
        "momentum": lambda step: 0.9 + 0.01 * step,
        "collapse": CollapseWatch(PROTOTYPES, NEVER),
    }
    kind = {"centering": centering, "center_momentum": center_momentum}
    dino = DinoLoss(PROTOTYPES, **kind)
    ibot = None
    if patches:
        ibot = TeacherTargets(PROTOTYPES, centering=centering, momentum=center_momentum)
    return DistillationTask(
        make_backbone(teacher.vision),
        student,
        teacher,
        dino=dino,
        ibot=ibot,
        **{**settings, **options},
    ).train()


def crop_batch(size: int, *, step: int = 0, local_crops: int = 3, masks: bool = False) -> CropBatch:
    """Crops of images that are a colour each, with noise; every second crop has 5 hidden patches.

    Args:
        size: Images of the batch.
        step: Other steps have other noise.
        local_crops: Of each image, 8 x 8 pixels; 0 for none.
        masks: Hide patches.
    """
    colours = torch.randint(0, 256, (size, 3), generator=_generator(7))
    generator = _generator(1000 + step)

    def crops(count: int, side: int) -> Tensor:
        noise = torch.randn(size, count, 3, side, side, generator=generator) * 40
        return (colours[:, None, :, None, None] + noise).clamp(0, 255).to(torch.uint8)

    hidden = torch.rand(size, 2, 16, generator=generator).argsort(dim=2) < 5
    hidden[:, 1] &= False
    hidden[1::2] = hidden[1::2].flip(1)
    return CropBatch(
        global_crops=crops(2, 16),
        sources=tuple(f"image-{step}-{index}" for index in range(size)),
        local_crops=crops(local_crops, 8) if local_crops else None,
        masks=hidden if masks else None,
    )


def weights_of(task: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in deepcopy(task.state_dict()).items()}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
