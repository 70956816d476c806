"""An image tower by itself, as self-supervised pretraining makes it.

Shapes: B images.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from owlkit.encoders.vision import VisionTower
from owlkit.geometry import Preprocessing
from owlkit.models import checkpoint
from owlkit.structures import PatchFeatures


class ImageBackbone(nn.Module):
    """An image tower and how images become its input.

    Args:
        vision: Image tower.
        preprocessing: Makes its input; travels with the weights.
    """

    def __init__(self, vision: VisionTower, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.vision = vision
        self.preprocessing = preprocessing

    def forward(self, pixel_values: Tensor) -> PatchFeatures:
        """Returns patch tokens, pooled vector and grid; see :class:`VisionTower`.

        Args:
            pixel_values: Preprocessed images [B, 3, H, W].

        Raises:
            InputSizeError: If the tower cannot take images of this size.
        """
        features: PatchFeatures = self.vision(pixel_values)
        return features

    @property
    def architecture(self) -> dict[str, Any]:
        """What rebuilds the model, ready for JSON."""
        return {"vision": self.vision.spec}

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path) -> "ImageBackbone":
        """Loads an image tower of owlkit (any kind of model), timm or Hugging Face.

        With a folder of others images are resized to cover the native input and their centre is
        kept, in the folder's colours, or ImageNet's where it names none.

        Args:
            folder_or_id: A folder, or a hub id such as ``facebook/dinov2-small``.

        Returns:
            The model in evaluation mode, float32, on the CPU.

        Raises:
            CheckpointError: If the folder is missing, damaged, or holds no image tower.
        """
        from owlkit.models.loading import load_backbone

        return load_backbone(folder_or_id)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes owlkit's model folder; an interrupted call leaves what was there before.

        Args:
            folder: A new folder, or one that holds an owlkit model, which is replaced.

        Raises:
            CheckpointError: If the folder holds something else.
        """
        checkpoint.save_folder(folder, kind="backbone", model=self)

    def save_timm(self, folder: str | Path) -> None:
        """Writes a folder in the layout of timm's hub, which ``timm.create_model`` loads.

        By ``timm.create_model("local-dir:FOLDER", pretrained=True)``. A mask token stays behind,
        and at other sizes than the native one timm resamples positions in its own way.

        Args:
            folder: A new or empty folder.

        Raises:
            ConfigError: If timm's constructor cannot be told of a part of the tower.
            CheckpointError: If the folder holds something.
        """
        from owlkit.models.interop.timm_backbone import save_timm

        save_timm(self, Path(folder))

    def save_transformers(self, folder: str | Path) -> None:
        """Writes a folder that transformers loads with no missing and no unexpected key.

        A plain tower, as DINO's, becomes a ``ViTModel`` (without its pooler, which DINO has not:
        load it with ``add_pooling_layer=False``); LayerScale, SwiGLU or registers make it a
        ``Dinov2Model`` or ``Dinov2WithRegistersModel``. Warns where these resample positions, at
        other sizes than the native one, in another way than the tower.

        Args:
            folder: A new or empty folder.

        Raises:
            ConfigError: If none of these classes, or no image processor, can express the model.
            CheckpointError: If the folder holds something.
        """
        from owlkit.models.interop.backbone import save_transformers

        save_transformers(self, Path(folder))
