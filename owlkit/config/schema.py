"""Every key of a configuration file: its type, its range, its default and what it does.

Defaults live here and nowhere else; a YAML file lists only what differs from them. The string under
a field is its documentation, shown by `owlkit.config.describe_fields`.

A section refuses keys that it does not know and values of the wrong type (`"3"` is not a number,
`true` is not 1), and cannot be changed once it is made. Where one key decides the value of another
(`init_from`, `vision.weights`, `text.weights`), setting both is a fault: the second would be
ignored in silence.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# A list in YAML becomes a tuple here; the numbers in it are still checked strictly.
ChannelValues = Annotated[tuple[float, float, float], Field(strict=False)]

ChannelScales = Annotated[
    tuple[
        Annotated[float, Field(gt=0.0)],
        Annotated[float, Field(gt=0.0)],
        Annotated[float, Field(gt=0.0)],
    ],
    Field(strict=False),
]


class Section(BaseModel):
    """Base of every section: unknown keys refused, types checked strictly, values frozen."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class VisionSection(Section):
    """The image tower."""

    name: str = Field(default="vit_base_patch16_clip_quickgelu_224", min_length=1)
    """Model name as timm knows it."""

    weights: str = Field(default="random", min_length=1)
    """Where the weights come from: `random`, `hub` (timm's published ones) or a folder, which then
    decides the model as well."""

    image_size: int = Field(default=768, ge=1)
    """Side of the square input in pixels; a multiple of the patch size."""

    init: Literal["clip", "timm"] = "clip"
    """Scheme for random weights: OpenAI CLIP's widths-aware one, or timm's own."""

    drop_path: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest stochastic-depth rate; it rises linearly from 0 at the first block."""

    positions: (
        Literal["bicubic", "bicubic_offset", "bicubic_antialias", "bilinear_aligned", "crop"] | None
    ) = None
    """How position embeddings are fitted to another grid: `bicubic` as Hugging Face does,
    `bicubic_offset` as DINO, `bicubic_antialias` as DINOv2 with registers, `bilinear_aligned` as
    OWL-ViT does when it starts from CLIP, `crop` as OWLv2 does below its training size; null
    keeps the rule that belongs to the weights."""

    gradient_checkpointing: bool = False
    """Recompute the blocks in the backward pass: less memory, about a third more time."""

    overrides: dict[str, int | float | bool | str] = Field(default_factory=dict)
    """Keyword arguments for the timm constructor, for example embed_dim, depth, num_heads."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.weights == "hub":
            _refuse_changed(self, ("init",), decided_by="weights")
        elif self.weights != "random":
            _refuse_changed(self, ("name", "init", "overrides"), decided_by="weights")
        return self


class TextSection(Section):
    """The text tower and its tokenizer."""

    width: int = Field(default=512, ge=1)
    """Width of the residual stream; a multiple of `heads`."""

    depth: int = Field(default=12, ge=1)
    """Number of transformer blocks."""

    heads: int = Field(default=8, ge=1)
    """Attention heads per block."""

    vocab_size: int = Field(default=49408, ge=2)
    """Rows of the token embedding; at least the vocabulary of the tokenizer."""

    context_length: int | None = Field(default=None, ge=2)
    """Longest query in tokens, start and end token included; null takes OWL-ViT's 16 for CLIP text
    towers (CLIP itself has 77) and all that others have."""

    embed_width: int = Field(default=512, ge=1)
    """Width of the embedding space shared with the image tower."""

    activation: Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"] = "quick_gelu"
    """Activation in the blocks. OpenAI's CLIP weights need `quick_gelu`; a wrong choice costs
    several points without any error."""

    tokenizer: str | None = Field(default=None, min_length=1)
    """Folder or hub id of the tokenizer; null takes the one that belongs to the weights."""

    weights: str | None = Field(default=None, min_length=1)
    """Folder or hub id of a transformers text model, which then decides the sizes; null makes
    random weights."""

    pool: Literal["argmax", "eos", "last", "cls", "mean"] | None = None
    """Which token becomes the sentence vector: `argmax` the largest id (CLIP, OWL-ViT), `eos` the
    first end token, `last` the last position of a fully padded row (SigLIP), `cls` the first,
    `mean` of the real ones; null takes what belongs to `weights`, and `argmax` without."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.weights is not None:
            decided = ("width", "depth", "heads", "vocab_size", "activation")
            _refuse_changed(self, decided, decided_by="weights")
        return self


class HeadsSection(Section):
    """The per-patch heads of the detector."""

    merge: Literal["class_token", "none"] = "class_token"
    """`class_token` multiplies every patch by the class token and normalises, as OWL-ViT does;
    `none` drops the class token."""

    objectness: bool = False
    """Add OWLv2's objectness head, which ranks boxes without a query."""

    prior_prob: float = Field(default=0.01, gt=0.0, lt=1.0)
    """Score of every box before training; sets the bias of the class head."""


class PreprocessingSection(Section):
    """From a picture to the network's input; stored with the weights."""

    fit: Literal["squash", "pad", "crop"] = "pad"
    """How a picture becomes square: `squash` stretches it, `pad` adds to the right and bottom,
    `crop` cuts the centre."""

    resample: Literal["bicubic", "gaussian", "bilinear"] = "gaussian"
    """Resize filter; `gaussian` blurs before a linear resize, as OWLv2's processor does."""

    pad_value: float = Field(default=0.5, ge=0.0, le=1.0)
    """Value of padded pixels before normalisation; 0 is black, 1 white."""

    mean: ChannelValues | None = None
    """Subtracted from the red, green and blue channel, in [0, 1]; null takes what belongs to the
    image tower's weights, and CLIP's for random ones."""

    std: ChannelScales | None = None
    """Divides the red, green and blue channel after the mean is subtracted; null as for `mean`."""


class ModelSection(Section):
    """The detector: two towers, heads and preprocessing."""

    init_from: str | None = Field(default=None, min_length=1)
    """Hub id or folder of a CLIP, SigLIP or OWL checkpoint whose weights start the detector. It
    then decides the towers' names and sizes; the keys for those must stay at their defaults."""

    convention: Literal["scenic", "hf"] = "scenic"
    """Where the original OWL-ViT code and the Hugging Face port differ (head activation, epsilon,
    box bias of oblong grids), which one to follow."""

    vision: VisionSection = Field(default_factory=VisionSection)
    """The image tower."""

    text: TextSection = Field(default_factory=TextSection)
    """The text tower and its tokenizer."""

    heads: HeadsSection = Field(default_factory=HeadsSection)
    """The per-patch heads."""

    preprocessing: PreprocessingSection = Field(default_factory=PreprocessingSection)
    """From a picture to the network's input."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.init_from is not None:
            vision = ("name", "weights", "init", "overrides")
            _refuse_changed(self.vision, vision, decided_by="init_from", section="vision.")
            sizes = ("width", "depth", "heads", "vocab_size", "embed_width")
            text = (*sizes, "activation", "weights", "pool")
            _refuse_changed(self.text, text, decided_by="init_from", section="text.")
        return self


class DetectorConfig(Section):
    """Root of `configs/owl_*.yaml`: one open-vocabulary detector."""

    model: ModelSection = Field(default_factory=ModelSection)
    """The detector."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of every random number: weights, data order, augmentation."""


def _refuse_changed(
    values: Section, names: Iterable[str], *, decided_by: str, section: str = ""
) -> None:
    """Raises ValueError if a key that another key decides does not hold its default."""
    fields = type(values).model_fields
    changed = [
        section + name
        for name in names
        if getattr(values, name) != fields[name].get_default(call_default_factory=True)
    ]
    if changed:
        raise ValueError(f"{', '.join(changed)} cannot be set as well: {decided_by} decides it")
