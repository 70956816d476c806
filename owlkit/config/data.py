"""The `data` section: which pictures and boxes, how they are altered, which queries are asked."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from owlkit.config.base import Section

Pair = Annotated[tuple[float, float], Field(strict=False)]

Probabilities = Annotated[
    tuple[Annotated[float, Field(ge=0.0)], ...], Field(strict=False, min_length=1, max_length=6)
]


class EvaluationSetSection(Section):
    """A data set to measure on: boxes in COCO or LVIS JSON, and the folder of its pictures.

    `~` and environment variables (`$DATA/train.json`) are expanded; other paths are relative to the
    folder where the program was started.
    """

    annotations: str | None = Field(default=None, min_length=1)
    """JSON file with `images`, `annotations` and `categories`."""

    images: str | None = Field(default=None, min_length=1)
    """Folder that the `file_name` of each picture is relative to."""

    max_images: int | None = Field(default=None, ge=1)
    """Take the first so many images of the file only; null for all."""


class DatasetSection(EvaluationSetSection):
    """A data set to learn from."""

    exhaustive: bool | None = None
    """Whether every instance of every class is boxed, so that a class without a box is absent
    (COCO: true; LVIS, Objects365 mixtures: false); null says false for files with
    `neg_category_ids`, else true."""

    weight: float = Field(default=1.0, gt=0.0)
    """Share of the training examples, relative to the other data sets'."""


class AugmentSection(Section):
    """What happens to a training picture; OWL-ViT's values."""

    flip: float = Field(default=0.5, ge=0.0, le=1.0)
    """Probability of a mirror image. Pictures with a label that says left or right stay."""

    crop: bool = True
    """Whether a random part is cut out, always."""

    crop_area: Pair = (0.3, 1.0)
    """Share of the picture's area that a crop keeps: least, most."""

    crop_aspect: Pair = (0.75, 1.33)
    """Width over height of a crop: least, most."""

    min_remaining_area: float = Field(default=0.6, ge=0.0, le=1.0)
    """A box stays if at least this share of its area is inside the crop."""

    colour_jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    """Strength of random brightness, contrast, saturation and hue; 0 for none, as published."""

    mosaic: Probabilities = (0.4, 0.3, 0.3)
    """Probabilities of examples made of 1, 4, 9, 16, 25 and 36 pictures, in this order; they are
    scaled to sum to 1. `[1]` for single pictures."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("crop_area", "crop_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "crop_area" and high > 1):
                limit = " of at most 1" if name == "crop_area" else ""
                raise ValueError(
                    f"{name} expects two positive numbers in ascending order{limit}, "
                    f"found {[low, high]}"
                )
        if sum(self.mosaic) <= 0:
            raise ValueError("mosaic expects at least one probability above 0")
        return self


class QueriesSection(Section):
    """What is asked about a training picture."""

    negatives: Literal["auto", "all", "sampled"] = "auto"
    """Which absent classes are asked for: `all` of the data set's classes (it must be exhaustive),
    `sampled` ones (annotated negatives, then random ones), or `auto`: all where the data set is
    exhaustive and has at most `max_queries` classes, else sampled."""

    random_negatives: int = Field(default=50, ge=0)
    """Sampled negatives are filled up to this number with classes drawn by their frequency."""

    max_queries: int = Field(default=99, ge=1)
    """Most queries per example: classes with boxes first, then annotated, then random negatives."""

    max_boxes: int = Field(default=100, ge=1)
    """Most boxes per example; further ones are dropped."""

    templates: str = Field(default="ensemble81", min_length=1)
    """Prompt templates, of which one is drawn at a time; see `owlkit.prompts.TEMPLATES`."""

    draw_templates: Literal["per_batch", "per_example"] = "per_batch"
    """For what a template is drawn for each class: for a whole batch, whose examples then share
    their texts, each of which is encoded once; or for each example, as published. With 80 classes
    and four images that is 80 texts to encode or 320."""

    canonicalize: bool = True
    """Lower case, no punctuation, as OWL-ViT's queries; false for languages other than English."""

    padding: Literal["masked", "negative"] = "masked"
    """Examples of a batch have unequally many queries. `masked` leaves the difference out of the
    loss; `negative` fills up to `max_queries` with empty queries that are always wrong, which is
    what the original code does without meaning to."""

    merge_iou: float | None = Field(default=0.9, gt=0.0, le=1.0)
    """Boxes that overlap at least so much become one with all their labels; null keeps both."""


class DataSection(Section):
    """Training and validation data."""

    train: DatasetSection = Field(default_factory=DatasetSection)
    """Pictures to learn from."""

    extra: Annotated[tuple[DatasetSection, ...], Field(strict=False)] = ()
    """More data sets to learn from; examples are drawn by `weight`, a mosaic from one data set."""

    val: EvaluationSetSection = Field(default_factory=EvaluationSetSection)
    """Pictures to measure on; without `annotations` there is no evaluation, and the last weights
    are kept as the best ones."""

    augment: AugmentSection = Field(default_factory=AugmentSection)
    """What happens to a training picture."""

    queries: QueriesSection = Field(default_factory=QueriesSection)
    """What is asked about a training picture."""

    crowd: Literal["drop", "drop_class"] = "drop"
    """Crowd regions are never targets. `drop` also stops asking for a class that has nothing but
    crowd regions in a picture; `drop_class` for every class that has any, its boxes included."""

    check: Literal["names", "header", "decode"] = "header"
    """How closely pictures are looked at before training: that the file exists, that its header can
    be read and states the annotated size, or that it can be decoded as a whole."""

    workers: int = Field(default=4, ge=0)
    """Processes that read pictures, for each training process; 0 reads in the training process."""
