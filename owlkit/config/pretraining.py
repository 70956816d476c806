"""The sections of stage one that stage two does not have: towers, pairs, and what compares them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from owlkit.config.base import Section, refuse_changed
from owlkit.config.data import Pair
from owlkit.config.model import (
    PreprocessingSection,
    TextSection,
    VisionSection,
    refuse_towers,
)


class DualEncoderSection(Section):
    """Two towers and the preprocessing of the image side."""

    init_from: str | None = Field(default=None, min_length=1)
    """Hub id or folder of a CLIP or SigLIP whose weights start the training. It then decides the
    towers' names and sizes; the keys for those must stay at their defaults. `~` and environment
    variables are expanded."""

    vision: VisionSection = Field(default_factory=VisionSection)
    """The image tower."""

    text: TextSection = Field(default_factory=TextSection)
    """The text tower and its tokenizer."""

    image_projection: bool | None = None
    """Whether a projection without bias stands behind the image vector (CLIP: yes; SigLIP: no, so
    that both towers must be equally wide); null does as `init_from` does, and has one without."""

    preprocessing: PreprocessingSection = Field(default_factory=PreprocessingSection)
    """From a picture to the network's input."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.init_from is not None:
            refuse_towers(self.vision, self.text)
            refuse_changed(self, ("image_projection",), decided_by="init_from")
        return self


class CaptionSetSection(Section):
    """Images with captions.

    `~` and environment variables (`$DATA/captions.jsonl`) are expanded; other paths are relative to
    the folder where the program was started.
    """

    captions: str | None = Field(default=None, min_length=1)
    """JSON lines, CSV, TSV or Parquet with `file`, `captions` (a list, or one a row) and, for
    `group_size`, `group`; or COCO captions JSON."""

    images: str | None = Field(default=None, min_length=1)
    """Folder that `file` is relative to."""

    split: str | None = Field(default=None, min_length=1)
    """Take only the lines whose `split` is this; null for all."""


class ClassSetSection(Section):
    """Images with class names."""

    classes: str | None = Field(default=None, min_length=1)
    """Folder with a sub-folder of images for each class, or `.npz` file with `images`, `labels` and
    `label_names`."""

    names: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """What the classes are called in the captions; null takes the names of folders or file."""

    templates: str = Field(default="none", min_length=1)
    """Sentences around a class name; see `owlkit.prompts.TEMPLATES`. In training one is drawn for
    each image, in measuring their embeddings are averaged."""


class PairSetSection(CaptionSetSection, ClassSetSection):
    """Pairs to learn from: captions, or classes, or shards."""

    shards: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Tar files of webdataset shards; braces (`{000..099}`), `*` and `pipe:COMMAND` are
    understood."""

    weight: float = Field(default=1.0, gt=0.0)
    """How often this set of shards is drawn from, next to those of `data.extra`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in ("captions", "classes", "shards") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"expected one of captions, classes and shards, found {given}")
        return self


class RetrievalSetSection(CaptionSetSection):
    """Images with captions to measure retrieval on."""

    max_images: int | None = Field(default=None, ge=1)
    """Take the first so many images only; null for all."""


class PairsSection(Section):
    """What is learned from and measured on, and how pictures are altered."""

    train: PairSetSection = Field(default_factory=PairSetSection)
    """Pairs to learn from."""

    extra: Annotated[tuple[PairSetSection, ...], Field(strict=False)] = ()
    """Further sets of shards, mixed with `train` by their weights."""

    val_captions: RetrievalSetSection = Field(default_factory=RetrievalSetSection)
    """Captioned images; recall of the own caption, and of the own image, is measured on them."""

    val_classes: ClassSetSection = Field(default_factory=ClassSetSection)
    """Images with classes; zero-shot accuracy is measured on them."""

    group_size: int = Field(default=1, ge=1)
    """So many consecutive examples of a batch come from one `group` of the captions. Groups of
    look-alikes are hard negatives: what they share cannot tell them apart."""

    flip: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of a mirror image. Pictures whose caption says left or right stay."""

    crop: bool = False
    """Whether a random part of each picture is cut out."""

    crop_area: Pair = (0.9, 1.0)
    """Least and most share of the picture's area that a crop keeps."""

    crop_aspect: Pair = (0.75, 1.33)
    """Least and most width over height of a crop."""

    colour_jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    """Strength of random brightness, contrast, saturation and hue."""

    length_window: int = Field(default=1, ge=1)
    """Length bucketing: the pairs of so many consecutive batches are sorted by the length of their
    captions, so that the captions of a batch are about equally long and less padding is computed;
    1 leaves them as they come."""

    shuffle_buffer: int = Field(default=1000, ge=1)
    """Samples of shards, undecoded, from which each worker draws the next."""

    cache: str | None = Field(default=None, min_length=1)
    """Folder where the image vectors of a frozen image tower are kept (LiT): they are computed once
    and the images never read again. Needs `optim.freeze: [image]` and no augmentation; null
    computes them at each step."""

    workers: int = Field(default=4, ge=0)
    """Processes that read pictures, for each training process; 0 reads in the training process."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.extra and not (self.train.shards and all(extra.shards for extra in self.extra)):
            raise ValueError("extra mixes sets of shards: expected train.shards and extra.*.shards")
        if self.train.shards and (self.group_size > 1 or self.length_window > 1):
            raise ValueError("group_size and length_window need captions or classes, not shards")
        if self.group_size > 1 and self.length_window > 1:
            raise ValueError("length_window would tear the groups of group_size apart; choose one")
        return self

    @property
    def altered(self) -> bool:
        """Whether a picture looks different each time that it is seen."""
        return self.flip > 0 or self.crop or self.colour_jitter > 0


class ContrastiveLossSection(Section):
    """How the images and texts of a batch are compared."""

    objective: Literal["clip", "siglip", "triplet"] = "clip"
    """CLIP's softmax over the batch, SigLIP's sigmoid of each pair with a learned bias, or the
    triplet loss with a margin."""

    logit_scale: float | None = Field(default=None, gt=0.0)
    """Factor of the cosines at the start, which learns and stays below 100 or, if larger, this
    value; null keeps that of `model.init_from`, and takes 1/0.07 without it. SigLIP takes 10 unless
    it starts from a SigLIP."""

    logit_bias: float | None = None
    """Added to SigLIP's logits at the start; null keeps that of `model.init_from`, and takes
    -ln(batch_size - 1) without it, with which a batch is as likely as it is."""

    chunk_size: int = Field(default=256, ge=1)
    """Texts that SigLIP's loss compares with all images at a time; less takes less memory."""

    margin: float = Field(default=0.2, gt=0.0)
    """Of the triplet loss, by which the own text must be more similar than another."""

    mining: Literal["hard", "semi_hard", "all"] = "hard"
    """Which negatives the triplet loss looks at: the most similar one, the most similar one that is
    less similar than the own text, or all."""

    simclr_weight: float = Field(default=0.0, ge=0.0)
    """Of SimCLR's loss on two strongly altered views of each image (SLIP: 1)."""

    simclr_temperature: float = Field(default=0.1, gt=0.0)
    """Of SimCLR's softmax."""

    patch_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of patches, chosen at random for each image, that never enter the image tower in
    training. Half or more makes training two to three times as fast; end with a few steps
    without."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.logit_bias is not None and self.objective != "siglip":
            raise ValueError(f"logit_bias belongs to siglip; objective is {self.objective}")
        return self


class EncoderEvalSection(Section):
    """How the encoders are measured during training."""

    batch_size: int = Field(default=64, ge=1)
    """Pictures per pass."""
