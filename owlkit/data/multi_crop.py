"""The crops of one picture.

Shapes: G global and L local crops, S and s their sides in pixels, H and W the size of the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from owlkit.data.pictures import Picture
from owlkit.data.views import ViewAugmentation, ViewRecipe
from owlkit.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Crops:
    """One training example.

    Attributes:
        global_crops: RGB, uint8 [G, S, S, 3].
        local_crops: RGB, uint8 [L, s, s, 3], or None.
        number: Of the example in the run, from 0.
        source: Where the picture comes from.
        corrupt: What could not be read and was replaced by this.
    """

    global_crops: NDArray[np.uint8]
    local_crops: NDArray[np.uint8] | None
    number: int
    source: str
    corrupt: tuple[str, ...] = ()


@dataclass(frozen=True)
class LateViews:
    """Other views at the end of a run, as DINOv2's phase at high resolution.

    Attributes:
        recipes: Of the views, global ones first.
        from_example: Number of the first example that gets them; a multiple of the batch size,
            since a batch has one size.
    """

    recipes: tuple[ViewRecipe, ...]
    from_example: int


class MultiCrop:
    """Makes the crops of a picture (Caron et al. 2020, https://arxiv.org/abs/2006.09882).

    Args:
        recipes: One for each crop, global ones first.
        global_crops: How many of them are global, at least 1.
        late: Recipes for the end of the run; None for the same.

    Raises:
        ConfigError: If there are too few recipes, or global or local crops differ in size.
    """

    def __init__(
        self,
        recipes: Sequence[ViewRecipe],
        *,
        global_crops: int = 2,
        late: LateViews | None = None,
    ) -> None:
        self.global_crops = global_crops
        self.late = late
        self.recipes = tuple(recipes)
        distinct = dict.fromkeys((*self.recipes, *(late.recipes if late else ())))
        self._augmentations = {recipe: ViewAugmentation(recipe) for recipe in distinct}
        _check(self.recipes, global_crops)
        if late is not None:
            _check(late.recipes, global_crops)

    def __call__(self, picture: Picture, number: int, generator: np.random.Generator) -> Crops:
        """Makes an example.

        Args:
            picture: What to cut.
            number: Of the example in the run, from 0; decides whether it is late.
            generator: Of all draws.
        """
        recipes = self._recipes(number)
        seeds = generator.integers(2**31, size=len(recipes)).tolist()
        views = [
            self._augmentations[recipe](picture.image, seed=seed)
            for recipe, seed in zip(recipes, seeds, strict=True)
        ]
        small = views[self.global_crops :]
        return Crops(
            global_crops=np.stack(views[: self.global_crops]),
            local_crops=np.stack(small) if small else None,
            number=number,
            source=picture.source,
            corrupt=picture.corrupt,
        )

    def pixels_needed(self, number: int) -> int:
        """Longer side of a photograph that is enough for all crops of an example."""
        return max(recipe.pixels_needed for recipe in self._recipes(number))

    def _recipes(self, number: int) -> tuple[ViewRecipe, ...]:
        if self.late is not None and number >= self.late.from_example:
            return self.late.recipes
        return self.recipes


def _check(recipes: Sequence[ViewRecipe], global_crops: int) -> None:
    sizes = [recipe.size for recipe in recipes]
    large, small = set(sizes[:global_crops]), set(sizes[global_crops:])
    if not 1 <= global_crops <= len(sizes) or len(large) > 1 or len(small) > 1:
        raise ConfigError(
            f"crops: expected at least {max(global_crops, 1)} recipes, global crops of one size "
            f"first, then local ones of one size; found sizes {sizes}"
        )
