"""The `model` section: towers, heads, preprocessing, and where their weights come from.

Where one key decides the value of another (`init_from`, `vision.weights`, `text.weights`), setting
both is a fault: the second would be ignored in silence.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from owlkit.config.base import Section, refuse_changed

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


class VisionSection(Section):
    """The image tower."""

    name: str = Field(default="vit_base_patch16_clip_quickgelu_224", min_length=1)
    """Model name as timm knows it."""

    weights: str = Field(default="random", min_length=1)
    """Where the weights come from: `random`, `hub` (timm's published ones) or a folder, which then
    decides the model as well; `~` and environment variables are expanded."""

    image_size: int | None = Field(default=None, ge=1)
    """Side of the square input in pixels; a multiple of the patch size. Null keeps the size that
    belongs to the weights, so that no position is resampled, and takes 768 for random ones, 224
    in self-supervised pretraining."""

    init: Literal["clip", "timm", "mae"] = "clip"
    """Scheme for random weights: OpenAI CLIP's widths-aware one, timm's own, or MAE's, whose
    positions are sines and cosines that stay as they are."""

    drop_path: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest stochastic-depth rate; it rises linearly from 0 at the first block. A teacher has
    none."""

    uniform_drop_path: bool = False
    """Whether the rate is the same in all blocks, as DINOv2's, instead of rising."""

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
            refuse_changed(self, ("init",), decided_by="weights")
        elif self.weights != "random":
            refuse_changed(self, ("name", "init", "overrides"), decided_by="weights")
        return self


class TextSection(Section):
    """The text tower and its tokenizer."""

    architecture: Literal["clip", "siglip"] = "clip"
    """Of a tower with random weights: CLIP's reads a text from left to right and takes its end
    token; SigLIP's sees the whole padded row at once and takes its last position."""

    width: int = Field(default=512, ge=1)
    """Width of the residual stream; a multiple of `heads`."""

    depth: int = Field(default=12, ge=1)
    """Number of transformer blocks."""

    heads: int = Field(default=8, ge=1)
    """Attention heads per block."""

    vocab_size: int | None = Field(default=None, ge=2)
    """Rows of the token embedding; null takes the size of the tokenizer's vocabulary, or CLIP's
    49408 without a tokenizer."""

    context_length: int | None = Field(default=None, ge=2)
    """Longest text in tokens, start and end token included; null keeps a detector's, takes
    OWL-ViT's 16 for a detector on other CLIP text towers (CLIP itself, and its pretraining, has 77)
    and all that others have. CLIP's can be shortened, SigLIP's is fixed, none can be exceeded."""

    embed_width: int | None = Field(default=None, ge=1)
    """Width of the embedding space shared with the image tower; null keeps the one that belongs to
    `weights` with its projection, if any, and takes 512 for random weights. With `weights`, a width
    makes a new projection with random weights, unless there is a trained one of that width."""

    activation: Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"] = "quick_gelu"
    """Activation in the blocks. OpenAI's CLIP weights need `quick_gelu`; a wrong choice costs
    several points without any error."""

    tokenizer: str | None = Field(default=None, min_length=1)
    """Folder or hub id of the tokenizer; null takes the one that belongs to the weights. `~` and
    environment variables are expanded."""

    weights: str | None = Field(default=None, min_length=1)
    """Folder or hub id of a transformers text model, which then decides the sizes; null makes
    random weights. `~` and environment variables are expanded."""

    pool: Literal["argmax", "eos", "last", "cls", "mean"] | None = None
    """Which token becomes the sentence vector: `argmax` the largest id (CLIP, OWL-ViT), `eos` the
    first end token, `last` the last position of a fully padded row (SigLIP), `cls` the first,
    `mean` of the real ones; null takes what belongs to `weights`, and `argmax` without."""

    drop_path: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest stochastic-depth rate; it rises linearly from 0 at the first block. OWL-ViT: 0.1."""

    gradient_checkpointing: bool = False
    """Recompute the blocks in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.architecture == "siglip" and self.pool not in (None, "last"):
            raise ValueError(f"architecture siglip reads its last position; pool is {self.pool}")
        if self.weights is not None:
            decided = ("architecture", "width", "depth", "heads", "vocab_size", "activation")
            refuse_changed(self, decided, decided_by="weights")
        return self


class HeadsSection(Section):
    """The per-patch heads of the detector."""

    merge: Literal["class_token", "none"] | None = None
    """`class_token` multiplies every patch by the class token and normalises, as OWL-ViT does;
    `none` drops the class token; null does as the detector in `init_from` does, and `class_token`
    without one."""

    objectness: bool | None = None
    """Whether there is OWLv2's objectness head, which ranks boxes without a query; null has one if
    the detector in `init_from` has one."""

    prior_prob: float = Field(default=0.01, gt=0.0, lt=1.0)
    """Score of every box before training; sets the bias of the class head."""


class PreprocessingSection(Section):
    """From a picture to the network's input; stored with the weights."""

    fit: Literal["squash", "pad", "crop"] | None = None
    """How a picture becomes square, in training and in use: `squash` stretches it, `pad` adds to
    the right and bottom, `crop` cuts the centre; null keeps a detector's, and pads without one.
    In pretraining, null keeps that of trained weights."""

    resample: Literal["bicubic", "gaussian", "bilinear"] | None = None
    """Resize filter in use; `gaussian` blurs before a linear resize, as OWLv2's processor does;
    null keeps a detector's, and is `gaussian` without one."""

    pad_value: float | None = Field(default=None, ge=0.0, le=1.0)
    """Value of padded pixels before normalisation, in training and in use; 0 is black, 1 white;
    null keeps a detector's, and is 0.5 without one."""

    mean: ChannelValues | None = None
    """Subtracted from the red, green and blue channel, in [0, 1]; null takes what belongs to the
    image tower's weights, and CLIP's for random ones."""

    std: ChannelScales | None = None
    """Divides the red, green and blue channel after the mean is subtracted; null as for `mean`."""


def refuse_towers(vision: VisionSection, text: TextSection) -> None:
    """Raises ValueError if keys are set that `init_from` decides."""
    own = ("name", "weights", "init", "overrides")
    refuse_changed(vision, own, decided_by="init_from", section="vision.")
    sizes = ("width", "depth", "heads", "vocab_size", "embed_width")
    keys = (*sizes, "architecture", "activation", "weights", "pool")
    refuse_changed(text, keys, decided_by="init_from", section="text.")


class ModelSection(Section):
    """The detector: two towers, heads and preprocessing."""

    init_from: str | None = Field(default=None, min_length=1)
    """Hub id or folder of a CLIP, SigLIP or OWL checkpoint whose weights start the detector. It
    then decides the towers' names and sizes; the keys for those must stay at their defaults.
    `~` and environment variables are expanded."""

    convention: Literal["scenic", "hf"] | None = None
    """Where the original OWL-ViT code and the Hugging Face port differ (head activation, epsilon,
    box bias of oblong grids; for a detector's own, position and preprocessing rules as well), which
    one to follow; null does as the detector in `init_from`, and `scenic` without one."""

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
            refuse_towers(self.vision, self.text)
        return self
