"""The views of published self-supervised methods; global crops first, then local ones."""

from typing import Literal, TypedDict, Unpack

from owlkit.data.views import ViewRecipe


class SharedDraws(TypedDict, total=False):
    """What all views of a method have in common, see :class:`owlkit.data.views.ViewRecipe`."""

    aspect: tuple[float, float]
    flip: float
    jitter: tuple[float, float, float, float]
    jittered: float
    grey: float
    blur_sigma: tuple[float, float]
    interpolation: Literal["linear", "cubic"]


def dino_recipes(
    *,
    global_size: int = 224,
    local_size: int = 96,
    local_crops: int = 8,
    global_area: tuple[float, float] = (0.4, 1.0),
    local_area: tuple[float, float] = (0.05, 0.4),
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5),
    solarize: tuple[float, float] = (0.0, 0.2),
    **shared: Unpack[SharedDraws],
) -> tuple[ViewRecipe, ...]:
    """Two large crops that differ in blur and solarizing, and small ones.

    Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers,
    https://arxiv.org/abs/2104.14294, with the numbers of its code,
    https://github.com/facebookresearch/dino, main_dino.py. DINOv2 (Oquab et al. 2023,
    https://arxiv.org/abs/2304.07193) has areas (0.32, 1) and (0.05, 0.32), and by an inverted
    probability in its code a blur of (0, 0.9, 0.5).

    Args:
        global_size: Side of the two large crops in pixels.
        local_size: Side of the small ones.
        local_crops: Number of small ones; 0 for none.
        global_area: Least and most share of the area of a large crop.
        local_area: Least and most share of the area of a small one.
        blur: How often the first, the second large crop and a small one are blurred.
        solarize: How often the first and the second large crop are solarized.
        shared: What differs from :class:`owlkit.data.views.ViewRecipe`'s numbers in all views.
    """
    large = [
        ViewRecipe(global_size, area=global_area, blur=blurred, solarize=inverted, **shared)
        for blurred, inverted in zip(blur[:2], solarize, strict=True)
    ]
    small = ViewRecipe(local_size, area=local_area, blur=blur[2], **shared)
    return (*large, *[small] * local_crops)


def byol_recipes(
    size: int, *, area: tuple[float, float] = (0.08, 1.0), **shared: Unpack[SharedDraws]
) -> tuple[ViewRecipe, ...]:
    """BYOL's two views, which differ in blur and solarizing.

    Grill et al. 2020, Bootstrap Your Own Latent, https://arxiv.org/abs/2006.07733, appendix B.

    Args:
        size: Side of a view in pixels.
        area: Least and most share of the area of a crop.
        shared: What differs from :class:`owlkit.data.views.ViewRecipe`'s numbers in both views.
    """
    return dino_recipes(global_size=size, local_crops=0, global_area=area, **shared)


def mae_recipe(
    size: int, *, area: tuple[float, float] = (0.2, 1.0), flip: float = 0.5
) -> ViewRecipe:
    """The one view of a masked autoencoder: a crop, perhaps mirrored, in its own colours.

    He et al. 2021, Masked Autoencoders Are Scalable Vision Learners,
    https://arxiv.org/abs/2111.06377, appendix A.1.

    Args:
        size: Side of the view in pixels.
        area: Least and most share of the area of the crop.
        flip: How often it is mirrored.
    """
    return ViewRecipe(size, area=area, flip=flip, jittered=0.0, grey=0.0, blur=0.0)


def simclr_recipe(size: int, *, strength: float = 1.0) -> ViewRecipe:
    """SimCLR's view: small crops, strong colours.

    Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations,
    https://arxiv.org/abs/2002.05709, appendix A; SLIP uses it for its image loss (Mu et al. 2021,
    https://arxiv.org/abs/2112.12750).

    Args:
        size: Side of a view in pixels.
        strength: Factor of the colour jitter, in [0, 1].
    """
    change = 0.8 * strength
    return ViewRecipe(
        size,
        area=(0.08, 1.0),
        jitter=(change, change, change, change / 4),
        blur=0.5,
        # A tenth of the side; windows are odd.
        blur_kernel=max(3, round(size / 10) // 2 * 2 + 1),
        interpolation="linear",
    )
