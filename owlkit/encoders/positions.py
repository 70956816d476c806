"""Position embeddings: learned ones at another grid size, and fixed ones.

Published models resample learned positions in several ways. These are not interchangeable: away
from its training size a model only reproduces its published features under the rule it was made
with, so the rule is part of a checkpoint.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import ConfigError, InputSizeError

PositionMode = Literal["bicubic", "bicubic_offset", "bicubic_antialias", "bilinear_aligned", "crop"]
POSITION_MODES: tuple[str, ...] = get_args(PositionMode)


def resample_positions(
    table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], *, mode: PositionMode
) -> Tensor:
    """Resamples a table of patch positions to another grid.

    Modes:
        - ``bicubic``: to the exact size, half-pixel centres, no antialias. Hugging Face's CLIP,
          OWL-ViT, OWLv2, SigLIP, ViT and DINOv2.
        - ``bicubic_offset``: by the scale factor (new + 0.1) / old, which also shifts the sampling
          points. DINO [0] and DINOv2 [1] without registers, in their original code.
        - ``bicubic_antialias``: exact size with antialias. DINOv2 with registers [2].
        - ``bilinear_aligned``: linear with aligned corners. Scenic, when an OWL-ViT starts from
          CLIP weights of another size [3].
        - ``crop``: the top-left part of the table, for smaller grids only. Scenic, when OWLv2 runs
          below its training size [3]: its training images were padded at the bottom and right.

    - [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
      https://arxiv.org/abs/2104.14294
    - [1]: DINOv2, 2023, https://arxiv.org/abs/2304.07193
    - [2]: Vision Transformers Need Registers, 2023, https://arxiv.org/abs/2309.16588
    - [3]: Scaling Open-Vocabulary Object Detection, 2023, https://arxiv.org/abs/2306.09683

    Args:
        table: Patch positions without class or register rows [1, h*w, D], row-major.
        old_grid: h and w of the table.
        new_grid: Height and width wanted.
        mode: One of the modes above.

    Returns:
        [1, H*W, D] in the table's dtype; the table itself where the grid does not change.

    Raises:
        InputSizeError: If ``crop`` is asked for a grid larger than the table's.
    """
    if old_grid == new_grid:
        return table
    width = table.shape[-1]
    grid = table.reshape(1, *old_grid, width)
    if mode == "crop":
        if new_grid[0] > old_grid[0] or new_grid[1] > old_grid[1]:
            raise InputSizeError(
                f"position mode 'crop' takes grids up to {old_grid[0]}x{old_grid[1]} patches, "
                f"found {new_grid[0]}x{new_grid[1]}"
            )
        return grid[:, : new_grid[0], : new_grid[1]].reshape(1, -1, width)
    channels_first = grid.permute(0, 3, 1, 2).float()
    resized = _interpolate(channels_first, old_grid, new_grid, mode)
    return resized.permute(0, 2, 3, 1).reshape(1, -1, width).to(table.dtype)


def _interpolate(
    grid: Tensor, old: tuple[int, int], new: tuple[int, int], mode: PositionMode
) -> Tensor:
    if mode == "bilinear_aligned":
        return F.interpolate(grid, size=new, mode="bilinear", align_corners=True)
    if mode == "bicubic_offset":
        # The offset keeps the product from rounding down to one row too few; published features
        # depend on the slightly stretched sampling that follows from it.
        factor = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
        return F.interpolate(grid, scale_factor=factor, mode="bicubic")
    return F.interpolate(grid, size=new, mode="bicubic", antialias=mode == "bicubic_antialias")


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed positions of a grid of patches, as MAE's [0]: sines and cosines of column, then row.

    Each of the four parts has D/4 wavelengths, from 2 pi to nearly 10,000 * 2 pi patches.

    - [0]: Masked Autoencoders Are Scalable Vision Learners, 2021, https://arxiv.org/abs/2111.06377

    Args:
        grid: h and w.
        width: D; a multiple of 4.

    Returns:
        float32 [h*w, D], row-major.

    Raises:
        ConfigError: If the width cannot be divided.
    """
    if width % 4:
        raise ConfigError(f"sine-cosine positions need a width that is a multiple of 4; {width}")
    quarter = width // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(
        *(torch.arange(cells, dtype=torch.float64) for cells in grid), indexing="ij"
    )
    angles = [places.reshape(-1, 1) * frequencies for places in (columns, rows)]
    parts = [part for angle in angles for part in (angle.sin(), angle.cos())]
    return torch.cat(parts, dim=1).float()


def published_positions(name: str) -> PositionMode:
    """The rule under which timm's published weights of this name were trained.

    DINO and DINOv2 stretch their table by a small offset, DINOv2 with registers uses antialias.
    (Hugging Face's ports of the first two do not; a tower from their folders records what they
    compute.)

    Args:
        name: timm's architecture with its tag, such as ``vit_small_patch14_dinov2.lvd142m``.
    """
    if "reg4_dinov2" in name:
        return "bicubic_antialias"
    return "bicubic_offset" if "dinov2" in name or name.endswith(".dino") else "bicubic"


def check_position_mode(mode: str) -> PositionMode:
    """Returns the mode if it is known.

    Raises:
        InputSizeError: Otherwise, listing the known modes.
    """
    if mode not in POSITION_MODES:
        raise InputSizeError(
            f"position mode must be one of {', '.join(POSITION_MODES)}; found {mode!r}"
        )
    return mode  # type: ignore[return-value]  # narrowed by the check above
