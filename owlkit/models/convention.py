"""Where the original code and the Hugging Face port of OWL-ViT differ, as explicit settings.

Weights of one are loaded by the other without a word, so these differences are silent; here they
are part of the checkpoint. ``scenic`` is the original [0], ``hf`` is transformers [1].

- [0]: scenic, projects/owl_vit, https://github.com/google-research/scenic
- [1]: transformers, models/owlvit and models/owlv2, https://github.com/huggingface/transformers
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from owlkit.encoders.positions import PositionMode
from owlkit.errors import CheckpointError

ConventionName = Literal["scenic", "hf"]
Gelu = Literal["tanh", "none"]
SizeBias = Literal["width", "both"]
_CHOICES = {"head_gelu": get_args(Gelu), "size_bias": get_args(SizeBias)}


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Numerical choices of one implementation.

    Attributes:
        name: ``scenic`` or ``hf`` for the published presets, anything else for a mixture.
        merge_norm_eps: Epsilon of the layer norm behind the class-token merge.
        head_gelu: ``tanh`` (approximate) or ``none`` (exact) GELU in box and objectness heads.
        size_bias: ``width`` takes 1/W as prior for both box sides, ``both`` takes 1/W and 1/H; they
            differ on grids that are not square.
        masked_logit: Logit of a padded query.
        normalize_text: Whether text embeddings leave the text side L2-normalised.
    """

    name: str
    merge_norm_eps: float
    head_gelu: Gelu
    size_bias: SizeBias
    masked_logit: float
    normalize_text: bool

    def to_dict(self) -> dict[str, Any]:
        """The settings, ready for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Convention":
        """Reads what :meth:`to_dict` wrote.

        Raises:
            CheckpointError: If a setting is missing or unknown.
        """
        try:
            convention = Convention(**values)
        except TypeError as error:
            raise CheckpointError(f"convention: {error}") from error
        for key, known in _CHOICES.items():
            if (found := getattr(convention, key)) not in known:
                raise CheckpointError(
                    f"convention: {key}: expected one of {known}, found {found!r}"
                )
        return convention


CONVENTIONS: dict[str, Convention] = {
    "scenic": Convention(
        name="scenic",
        merge_norm_eps=1e-6,
        head_gelu="tanh",
        size_bias="width",
        masked_logit=-1e6,
        normalize_text=False,
    ),
    "hf": Convention(
        name="hf",
        merge_norm_eps=1e-5,
        head_gelu="none",
        size_bias="both",
        masked_logit=-3.4028234663852886e38,  # the smallest finite float32
        normalize_text=True,
    ),
}

# How OWL-ViT's position table reaches another grid; a setting of the image tower.
OWL_POSITIONS: dict[str, PositionMode] = {"scenic": "crop", "hf": "bicubic"}


def resolve_convention(name: str) -> Convention:
    """The preset of that name.

    Raises:
        CheckpointError: If there is none.
    """
    if name not in CONVENTIONS:
        raise CheckpointError(f"convention must be one of {', '.join(CONVENTIONS)}; found {name!r}")
    return CONVENTIONS[name]
