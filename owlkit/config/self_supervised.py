"""The sections of self-supervised pretraining: a backbone, images without words, and objectives."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from owlkit.config.base import Section, refuse_changed
from owlkit.config.data import Pair
from owlkit.config.model import PreprocessingSection, VisionSection
from owlkit.config.pretraining import EncoderEvalSection

Share = Annotated[float, Field(ge=0.0, le=1.0)]

# Keys of iBOT's own head.
_SEPARATE = ("ibot_out_dim", "ibot_bottleneck_width")

Strengths = Annotated[
    tuple[
        Annotated[float, Field(ge=0.0)],
        Annotated[float, Field(ge=0.0)],
        Annotated[float, Field(ge=0.0)],
        Annotated[float, Field(ge=0.0, le=0.5)],
    ],
    Field(strict=False),
]


class BackboneSection(Section):
    """The image tower and its preprocessing."""

    vision: VisionSection = Field(default_factory=VisionSection)
    """The image tower."""

    preprocessing: PreprocessingSection = Field(default_factory=PreprocessingSection)
    """From a picture to the network's input, in use; random weights cut out the centre and take
    ImageNet's colours where this says nothing."""


class ImageSetSection(Section):
    """Images to learn from: a folder, the files of captions, classes, or shards.

    Labels are never read, captions only for the names of their files.
    `~` and environment variables (`$DATA/photos`) are expanded; other paths are relative to the
    folder where the program was started.
    """

    images: str | None = Field(default=None, min_length=1)
    """Folder of images at any depth; with `captions`, the folder that their files are relative
    to."""

    captions: str | None = Field(default=None, min_length=1)
    """File of captions, as of contrastive pretraining, whose images are taken and words left."""

    split: str | None = Field(default=None, min_length=1)
    """Take only the lines of `captions` whose `split` is this; null for all."""

    classes: str | None = Field(default=None, min_length=1)
    """Folder with a sub-folder of images for each class, or `.npz` file with `images`, `labels` and
    `label_names`."""

    shards: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Tar files of webdataset shards; braces (`{000..099}`), `*` and `pipe:COMMAND` are
    understood."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in ("images", "captions", "classes", "shards") if getattr(self, key)]
        if len(given) > 1 and given != ["images", "captions"]:
            raise ValueError(
                f"expected one of images, captions with images, classes and shards, found {given}"
            )
        if self.split is not None and self.captions is None:
            raise ValueError("split belongs to captions; captions is null")
        return self


class LabelledSetSection(Section):
    """Images with classes, to measure with; nothing is learned from their labels."""

    classes: str | None = Field(default=None, min_length=1)
    """Folder with a sub-folder of images for each class, or `.npz` file with `images`, `labels` and
    `label_names`."""

    max_images: int | None = Field(default=None, ge=1)
    """Take so many of the images, drawn once; null for all."""


class CropsSection(Section):
    """The views of a picture: random parts of it in random colours; DINO's values.

    Global views show most of the picture, local ones, which only DINO has, a small part. MAE takes
    one global view in its own colours, BYOL two.
    """

    global_size: int | None = Field(default=None, ge=1)
    """Side of a global view in pixels; null takes that of the model."""

    local_size: int = Field(default=96, ge=1)
    """Side of a local view in pixels."""

    local_crops: int = Field(default=8, ge=0)
    """Local views of each picture."""

    global_area: Pair | None = None
    """Least and most share of the picture's area in a global view; null takes 0.4 and 1 for DINO,
    0.2 and 1 for MAE, 0.08 and 1 for BYOL, as published."""

    local_area: Pair = (0.05, 0.4)
    """Least and most share of the picture's area in a local view."""

    aspect: Pair = (3 / 4, 4 / 3)
    """Least and most width over height of what is cut out."""

    flip: Share = 0.5
    """Probability of a mirror image."""

    jitter: Strengths = (0.4, 0.4, 0.2, 0.1)
    """Largest change of brightness, contrast, saturation (shares) and hue (of the circle)."""

    jittered: Share = 0.8
    """Probability that colours change."""

    grey: Share = 0.2
    """Probability of a picture without colour."""

    blur: Annotated[tuple[Share, Share, Share], Field(strict=False)] = (1.0, 0.1, 0.5)
    """Probability of a blur: in the first global view, the second, and the local ones."""

    blur_sigma: Pair = (0.1, 2.0)
    """Least and most standard deviation of a blur in pixels."""

    solarize: Annotated[tuple[Share, Share], Field(strict=False)] = (0.0, 0.2)
    """Probability of solarisation: in the first global view and the second."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("global_area", "local_area", "aspect", "blur_sigma"):
            pair = getattr(self, key)
            if pair is not None and not 0.0 < pair[0] <= pair[1]:
                raise ValueError(f"{key} expects 0 < least <= most, found {list(pair)}")
            if pair is not None and key.endswith("area") and pair[1] > 1.0:
                raise ValueError(f"{key} expects shares of at most 1, found {list(pair)}")
        if not self.local_crops:
            refuse_changed(self, ("local_size", "local_area"), decided_by="local_crops=0")
        return self


class EndPhaseSection(Section):
    """A last phase on larger views, as DINOv2's."""

    steps: int = Field(default=0, ge=0)
    """Length of the phase, of `train.steps`; 0 for none."""

    global_size: int | None = Field(default=None, ge=1)
    """Side of a global view from then on; null keeps it."""

    local_size: int | None = Field(default=None, ge=1)
    """Side of a local view from then on; null keeps it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.steps:
            refuse_changed(self, ("global_size", "local_size"), decided_by="steps=0")
        elif self.global_size is None and self.local_size is None:
            raise ValueError("expected a global_size or local_size for the end phase, found null")
        return self


class ImagesSection(Section):
    """What is learned from, how it is cut, and what is measured on."""

    train: ImageSetSection = Field(default_factory=ImageSetSection)
    """Images to learn from."""

    bank_classes: LabelledSetSection = Field(default_factory=LabelledSetSection)
    """Labelled images among which the nearest neighbours are sought during training."""

    val_classes: LabelledSetSection = Field(default_factory=LabelledSetSection)
    """Labelled images that are classified by their neighbours; null measures nothing."""

    crops: CropsSection = Field(default_factory=CropsSection)
    """The views."""

    end_phase: EndPhaseSection = Field(default_factory=EndPhaseSection)
    """Larger views at the end."""

    shuffle_buffer: int = Field(default=1000, ge=1)
    """Samples of shards, undecoded, from which each worker draws the next."""

    workers: int = Field(default=4, ge=0)
    """Processes that read pictures, for each training process; 0 reads in the training process."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.bank_classes.classes is None) != (self.val_classes.classes is None):
            raise ValueError(
                "expected both of bank_classes.classes and val_classes.classes, to seek the "
                "neighbours of the latter among the former, or neither; found one"
            )
        return self


class DinoSection(Section):
    """Self-distillation: DINO, with DINOv2's parts as weights above 0."""

    out_dim: int = Field(default=65536, ge=2)
    """Prototypes, among which the head distributes a view."""

    hidden_width: int = Field(default=2048, ge=1)
    """Width of the head's hidden layers."""

    bottleneck_width: int = Field(default=256, ge=1)
    """Width of the vector that is compared with the prototypes."""

    head_layers: int = Field(default=3, ge=1)
    """Linear layers before the prototypes."""

    head_batch_norm: bool = False
    """Whether batch norms stand between them."""

    free_gain: bool = False
    """Whether the prototypes' lengths learn; DINO's authors advise it for ViT-S only."""

    frozen_steps: int = Field(default=0, ge=0)
    """First steps in which the prototypes stay as they are (published: one epoch)."""

    student_temperature: float = Field(default=0.1, gt=0.0)
    """Of the student's softmax."""

    teacher_temperature: float = Field(default=0.04, gt=0.0)
    """Of the teacher's softmax, which sharpens what the student learns; above about 0.07 outputs
    collapse."""

    warmup_teacher_temperature: float = Field(default=0.04, gt=0.0)
    """Where the teacher's temperature begins."""

    temperature_warmup_steps: int = Field(default=0, ge=0)
    """Steps over which it goes from there to `teacher_temperature` in a line (published: 30
    epochs)."""

    centering: Literal["centering", "sinkhorn_knopp"] = "centering"
    """What keeps the teacher from giving all images to one prototype: the mean of its outputs is
    subtracted, or they are balanced over the batch (DINOv2)."""

    center_momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Of the moving mean that `centering` subtracts."""

    sinkhorn_iterations: int = Field(default=3, ge=1)
    """Rounds of `sinkhorn_knopp`."""

    ibot_weight: float = Field(default=0.0, ge=0.0)
    """Of iBOT's loss: the student says of masked patches what the teacher says of visible ones
    (DINOv2: 1). With `stem: conv` the neighbours of a masked patch have seen its edges."""

    ibot_head: Literal["shared", "separate"] = "shared"
    """Whether patches go through the head of whole views or one of their own."""

    ibot_out_dim: int | None = Field(default=None, ge=2)
    """Prototypes of a separate head; null takes `out_dim`."""

    ibot_bottleneck_width: int | None = Field(default=None, ge=1)
    """Width of a separate head's bottleneck; null takes `bottleneck_width`."""

    mask_probability: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of the global views of a batch that are masked."""

    mask_ratio: Pair = (0.1, 0.5)
    """Least and most share of a masked view's patches that are hidden."""

    koleo_weight: float = Field(default=0.0, ge=0.0)
    """Of KoLeo's loss, which spreads the vectors of a batch (DINOv2: 0.1)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0.0 < self.mask_ratio[0] <= self.mask_ratio[1] < 1.0:
            raise ValueError(
                f"mask_ratio expects 0 < least <= most < 1, found {list(self.mask_ratio)}"
            )
        if not self.temperature_warmup_steps:
            refuse_changed(
                self, ("warmup_teacher_temperature",), decided_by="temperature_warmup_steps=0"
            )
        if not self.ibot_weight:
            keys = ("ibot_head", *_SEPARATE, "mask_probability", "mask_ratio")
            refuse_changed(self, keys, decided_by="ibot_weight=0")
        if self.ibot_head == "shared":
            refuse_changed(self, _SEPARATE, decided_by="ibot_head=shared")
        if self.centering == "centering":
            refuse_changed(self, ("sinkhorn_iterations",), decided_by="centering=centering")
        else:
            refuse_changed(self, ("center_momentum",), decided_by="centering=sinkhorn_knopp")
        return self


class MaeSection(Section):
    """Masked autoencoding; MAE's values."""

    mask_ratio: float = Field(default=0.75, gt=0.0, lt=1.0)
    """Share of the patches that the encoder does not see."""

    decoder_width: int = Field(default=512, ge=1)
    """Width of the decoder, a multiple of four and of its heads."""

    decoder_depth: int = Field(default=8, ge=1)
    """Blocks of the decoder."""

    decoder_heads: int = Field(default=16, ge=1)
    """Attention heads of its blocks."""

    normalize_pixels: bool = True
    """Whether each patch is to be drawn with its own mean and contrast taken out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise ValueError(
                f"decoder_width expects a multiple of 4 and of decoder_heads "
                f"({self.decoder_heads}), found {self.decoder_width}"
            )
        return self


class ByolSection(Section):
    """Prediction of the other view's vector; BYOL's values."""

    hidden_width: int = Field(default=4096, ge=1)
    """Width of the hidden layer of projector and predictor."""

    width: int = Field(default=256, ge=1)
    """Width of the vectors that are compared."""


class SelfSupervisedLossSection(Section):
    """What is learned from images alone; only the chosen objective's keys may be set."""

    objective: Literal["dino", "mae", "byol"] = "dino"
    """Self-distillation (DINO, and with its weights DINOv2), masked autoencoding (MAE), or the
    prediction of another view (BYOL)."""

    dino: DinoSection = Field(default_factory=DinoSection)
    """Of DINO and DINOv2."""

    mae: MaeSection = Field(default_factory=MaeSection)
    """Of MAE."""

    byol: ByolSection = Field(default_factory=ByolSection)
    """Of BYOL."""

    momentum: float = Field(default=0.996, ge=0.0, lt=1.0)
    """How much of itself the teacher (BYOL: the target) keeps in a step, at the start; it rises to
    1 along a cosine. Published for DINO with batches of 256: 0.9995; DINOv2: 0.992 to 0.994."""

    collapse_after: int | None = Field(default=1000, ge=0)
    """From this step on, a run whose outputs no longer depend on the image is stopped; null lets it
    go on."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        others = [name for name in ("dino", "mae", "byol") if name != self.objective]
        if self.objective == "mae":
            others += ["momentum", "collapse_after"]  # it has no teacher, and cannot collapse
        refuse_changed(self, others, decided_by=f"objective={self.objective}")
        return self


class SelfSupervisedEvalSection(EncoderEvalSection):
    """How the backbone is measured during training: by the classes of nearest neighbours."""

    neighbours: int = Field(default=20, ge=1)
    """How many vote."""

    temperature: float = Field(default=0.07, gt=0.0)
    """Of their votes: the smaller, the more the nearest decide."""
