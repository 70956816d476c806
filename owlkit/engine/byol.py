"""One step of BYOL: two views of each image, of which one tower predicts what another says.

Shapes: B images, Dp pooled width, F width of the projections.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from owlkit.engine.collapse import CollapseWatch, feature_terms, spread
from owlkit.engine.pixels import PixelScaler
from owlkit.errors import DatasetError
from owlkit.losses import byol_loss
from owlkit.models import ImageBackbone
from owlkit.models.weight_average import move_weights
from owlkit.structures import CropBatch


class ByolTask(nn.Module):
    """Trains an online tower to predict, from one view, its slow average's view of the other [0].

    The views pass one after another, so that batch norms see one kind of view at a time, as in the
    original.

    - [0]: Bootstrap Your Own Latent, 2020, https://arxiv.org/abs/2006.07733

    Args:
        model: Around the online tower, which is what a run is for.
        projector: From Dp to F.
        predictor: From F to F.
        target: ``vision`` and ``projector`` of the architectures of the online ones; takes over
            their weights here and follows them from then on.
        momentum: The target's at a step, in [0, 1].
        collapse: Ends the run if outputs no longer depend on the image.
    """

    def __init__(
        self,
        model: ImageBackbone,
        projector: nn.Module,
        predictor: nn.Module,
        target: nn.ModuleDict,
        *,
        momentum: Callable[[int], float],
        collapse: CollapseWatch,
    ) -> None:
        super().__init__()
        self.model = model
        self.projector = projector
        self.predictor = predictor
        self.target = target
        self.momentum = momentum
        self.collapse = collapse
        self.pixels = PixelScaler(model.preprocessing)
        self._step = 0
        target.load_state_dict(self._online.state_dict())
        target.requires_grad_(False)

    @property
    def find_unused_parameters(self) -> bool:
        """Whether some weights get no gradient: a mask token that is not used."""
        return self.model.vision.mask_token is not None

    def begin_step(self, step: int) -> None:
        """Takes the momentum of a step.

        Args:
            step: Steps taken so far.
        """
        self._step = step

    def forward(self, batch: CropBatch) -> dict[str, Tensor]:
        """Returns ``loss``, to be minimised, and signs of collapse.

        Args:
            batch: B images with two global crops each.

        Returns:
            Scalars in float32: ``loss``; ``byol``, the same, summed over both ways, in [0, 8];
            ``projection_std``, the spread of the target's projections; what
            :func:`~owlkit.engine.collapse.feature_terms` says of the online pooled vectors.

        Raises:
            DatasetError: If there are not two global crops.
        """
        if batch.global_crops.shape[1] != 2:
            raise DatasetError(
                f"BYOL: expected 2 global crops of each image, found {batch.global_crops.shape[1]}"
            )
        views = [self.pixels(view) for view in batch.global_crops.unbind(1)]
        pooled = [self.model.vision(view).pooled for view in views]
        first, second = (self.predictor(self.projector(vectors)) for vectors in pooled)
        with torch.no_grad():
            targets = [self._project_by_target(view) for view in views]
        loss = byol_loss(first, targets[1]) + byol_loss(second, targets[0])
        spreads = {
            "projection_std": spread(torch.cat(targets)),
            **feature_terms(torch.cat(pooled)),
        }
        return {"loss": loss, "byol": loss, **spreads}

    def finish_step(self) -> None:
        """Lets the target follow what this step has brought."""
        move_weights(self.target, self._online, self.momentum(self._step))

    def check_means(self, step: int, means: Mapping[str, float]) -> None:
        """Ends a run that has collapsed.

        Args:
            step: Steps taken.
            means: Of the terms since they were last logged.

        Raises:
            TrainingError: If the outputs are the same for all images.
        """
        self.collapse.check(step, means)

    @property
    def _online(self) -> nn.ModuleDict:
        """The learning side of ``target``, under its names."""
        return nn.ModuleDict({"vision": self.model.vision, "projector": self.projector})

    def _project_by_target(self, view: Tensor) -> Tensor:
        projected: Tensor = self.target["projector"](self.target["vision"](view).pooled)
        return projected
