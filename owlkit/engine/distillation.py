"""One step of self-distillation without labels: crops to a loss, then a better teacher.

Shapes: B images, G global and L local crops of each, V = G + L, P patches of a global crop, M
hidden patches, K prototypes, D pooled width. Crops are crop-major: crop 0 of all images, then crop
1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from owlkit.engine.collapse import CollapseWatch, feature_terms, output_terms
from owlkit.engine.pixels import PixelScaler
from owlkit.errors import ConfigError, DatasetError
from owlkit.losses import DinoLoss, TeacherTargets, ibot_loss, koleo_loss
from owlkit.models import ImageBackbone
from owlkit.models.distillation import CropEncoder, CropOutputs
from owlkit.models.weight_average import move_weights
from owlkit.structures import CropBatch


@dataclass(frozen=True)
class _Lesson:
    """What the student has to match; the teacher's logits, as large again, are not kept.

    Attributes:
        probs: Of the global crops [G * B, K].
        patch_probs: Of the hidden patches [M, K']; None without iBOT.
        pooled: The teacher's pooled vectors [G * B, D].
    """

    probs: Tensor
    patch_probs: Tensor | None
    pooled: Tensor


class DistillationTask(nn.Module):
    """Trains a student to say of any crop what its own slow average says of another.

    That is DINO [0]; with iBOT [1] on hidden patches and KoLeo's spreading of features it is
    DINOv2's objective [2]. The teacher, which sees the global crops whole, is what a run is for.

    - [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
      https://arxiv.org/abs/2104.14294
    - [1]: iBOT: Image BERT Pre-Training with Online Tokenizer, 2021,
      https://arxiv.org/abs/2111.07832
    - [2]: DINOv2: Learning Robust Visual Features without Supervision, 2023,
      https://arxiv.org/abs/2304.07193

    Args:
        model: Around the teacher's tower, the same module.
        student: What learns. Stochastic depth belongs to it alone.
        teacher: The same architecture; takes over the student's weights here and follows them from
            then on.
        dino: Compares both on pooled vectors, and centers the teacher.
        ibot: Centers the teacher's patches for iBOT; None for none of it. Both encoders then have a
            patch head and batches have masks.
        ibot_weight: Of iBOT's loss beside DINO's.
        koleo_weight: Of KoLeo's, the sum over global crops, each with those of the other images of
            its process.
        temperature: The teacher's at a step, above 0.
        momentum: The teacher's at a step, in [0, 1].
        frozen_steps: So many steps the last layers of the heads stay as they are.
        collapse: Ends the run if outputs no longer depend on the image.
        accumulation: Parts in which a batch passes. All parts of a batch see one center, so that
            they are the whole; Sinkhorn-Knopp and KoLeo compare images and need one part.

    Raises:
        ConfigError: If the parts do not fit together.
    """

    # Both encoders, and every number of the recipe that acts between them.
    def __init__(  # noqa: PLR0913
        self,
        model: ImageBackbone,
        student: CropEncoder,
        teacher: CropEncoder,
        *,
        dino: DinoLoss,
        temperature: Callable[[int], float],
        momentum: Callable[[int], float],
        collapse: CollapseWatch,
        ibot: TeacherTargets | None = None,
        ibot_weight: float = 1.0,
        koleo_weight: float = 0.0,
        frozen_steps: int = 0,
        accumulation: int = 1,
    ) -> None:
        super().__init__()
        if model.vision is not teacher.vision:
            raise ConfigError("model: expected one around the teacher's tower, found another tower")
        _check_patches(student, ibot)
        _check_accumulation(dino, ibot, koleo_weight, accumulation)
        self.model = model
        self.student = student
        self.teacher = teacher
        self.dino = dino
        self.ibot = ibot
        self.ibot_weight = ibot_weight
        self.koleo_weight = koleo_weight
        self.temperature = temperature
        self.momentum = momentum
        self.frozen_steps = frozen_steps
        self.collapse = collapse
        self.accumulation = accumulation
        self.pixels = PixelScaler(model.preprocessing)
        self._step = 0
        self._several_images = True
        teacher.load_state_dict(student.state_dict())
        teacher.requires_grad_(False)

    @property
    def find_unused_parameters(self) -> bool:
        """Whether some weights get no gradient: frozen prototypes or an idle mask token."""
        idle = self.ibot is None and self.student.vision.mask_token is not None
        return idle or self.frozen_steps > 0

    def begin_step(self, step: int) -> None:
        """Takes the temperature and momentum of a step.

        Args:
            step: Steps taken so far.
        """
        self._step = step

    def forward(self, batch: CropBatch) -> dict[str, Tensor]:
        """Returns ``loss``, to be minimised, its parts without weights, and signs of collapse.

        Args:
            batch: B images; with masks if there is iBOT.

        Returns:
            Scalars in float32: ``loss``; ``dino``; ``ibot`` and ``koleo``, if they have a part in
            it; what :func:`~owlkit.engine.collapse.output_terms` says of the outputs and
            :func:`~owlkit.engine.collapse.feature_terms` of the teacher's pooled vectors.

        Raises:
            ConfigError: If KoLeo finds a single image.
            DatasetError: If the batch lacks crops or masks.
        """
        self._check_batch(batch)
        self._several_images = len(batch) > 1
        global_crops = self.pixels(_crop_major(batch.global_crops))
        local_crops = None
        if batch.local_crops is not None:
            local_crops = self.pixels(_crop_major(batch.local_crops))
        hidden = read = None
        if self.ibot is not None and batch.masks is not None:
            hidden = _crop_major(batch.masks)
            read = hidden.nonzero()  # the only wait for the device, before there is work for it

        lesson = self._teach(global_crops, read)
        said: CropOutputs = self.student(
            global_crops,
            local_crops,
            mask=hidden,
            read=read,
            freeze_prototypes=self._step < self.frozen_steps,
        )

        dino = self.dino.compare(said.logits, lesson.probs)
        terms = {"loss": dino, "dino": dino}
        if hidden is not None and said.patch_logits is not None and lesson.patch_probs is not None:
            terms["ibot"] = ibot_loss(
                said.patch_logits,
                lesson.patch_probs,
                hidden,
                temperature=self.dino.student_temperature,
            )
            terms["loss"] = terms["loss"] + self.ibot_weight * terms["ibot"]
        if self.koleo_weight:
            crops = said.pooled.chunk(self.dino.global_crops)
            terms["koleo"] = torch.stack([koleo_loss(pooled) for pooled in crops]).sum()
            terms["loss"] = terms["loss"] + self.koleo_weight * terms["koleo"]
        outputs = output_terms(
            lesson.probs,
            said.logits,
            temperature=self.dino.student_temperature,
            global_crops=self.dino.global_crops,
        )
        return {**terms, **outputs, **feature_terms(lesson.pooled)}

    def finish_step(self) -> None:
        """Lets the teacher and its centers follow what this step has brought."""
        move_weights(self.teacher, self.student, self.momentum(self._step))
        self.dino.update_center()
        if self.ibot is not None:
            self.ibot.update_center()

    def check_means(self, step: int, means: Mapping[str, float]) -> None:
        """Ends a run that has collapsed.

        Args:
            step: Steps taken.
            means: Of the terms since they were last logged.

        Raises:
            TrainingError: If the teacher's outputs do not depend on the image.
        """
        if self._several_images:  # a single image cannot show it
            self.collapse.check(step, means)

    @torch.no_grad()
    def _teach(self, global_crops: Tensor, read: Tensor | None) -> _Lesson:
        """What the teacher says of whole crops, and of the patches to read of them [M, 2]."""
        temperature = self.temperature(self._step)
        seen: CropOutputs = self.teacher(global_crops, read=read)
        patch_probs = None
        if self.ibot is not None:
            patch_probs = self.ibot(seen.patch_logits, temperature)
        return _Lesson(self.dino.assign(seen.logits, temperature), patch_probs, seen.pooled)

    def _check_batch(self, batch: CropBatch) -> None:
        expected, found = self.dino.global_crops, batch.global_crops.shape[1]
        if found != expected:
            raise DatasetError(f"expected {expected} global crops of each image, found {found}")
        if self.ibot is not None and batch.masks is None:
            raise DatasetError("iBOT: expected a batch with masks, found none")
        if self.koleo_weight and len(batch) < 2:
            raise ConfigError(
                f"KoLeo compares the images of a process: expected 2 or more, found {len(batch)}; "
                "use a larger train.batch_size or koleo_weight 0"
            )


def _crop_major(crops: Tensor) -> Tensor:
    """Puts [B, V, ...] in the order of crops: [V * B, ...]."""
    return crops.transpose(0, 1).flatten(0, 1)


def _check_patches(student: CropEncoder, ibot: TeacherTargets | None) -> None:
    if (student.patch_head is None) != (ibot is None):
        expected, found = ("none", "one") if ibot is None else ("one", "none")
        raise ConfigError(f"patch_head: expected {expected}, as for iBOT's targets, found {found}")
    if ibot is not None and student.vision.mask_token is None:
        raise ConfigError(
            f"iBOT hides patches and needs a vision transformer made with mask_token=True, found "
            f"{student.vision.name} without one"
        )


def _check_accumulation(
    dino: DinoLoss, ibot: TeacherTargets | None, koleo_weight: float, accumulation: int
) -> None:
    """Refuses to cut batches whose images are compared with one another."""
    kinds = {dino.targets.centering} | ({ibot.centering} if ibot is not None else set())
    coupling = ["Sinkhorn-Knopp"] if "sinkhorn_knopp" in kinds else []
    coupling += ["KoLeo"] if koleo_weight else []
    if coupling and accumulation > 1:
        raise ConfigError(
            f"{' and '.join(coupling)} compares the images of a batch: expected "
            f"train.accumulation 1, found {accumulation}"
        )
