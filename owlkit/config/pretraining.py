"""The sections of stage one that stage two does not have: pairs of images and texts."""

from pydantic import Field

from owlkit.config.base import Section
from owlkit.config.model import PreprocessingSection, TextSection, VisionSection


class DualEncoderSection(Section):
    """Two towers and the preprocessing of the image side."""

    vision: VisionSection = Field(default_factory=VisionSection)
    """The image tower."""

    text: TextSection = Field(default_factory=TextSection)
    """The text tower and its tokenizer."""

    preprocessing: PreprocessingSection = Field(default_factory=PreprocessingSection)
    """From a picture to the network's input."""


class PairsSection(Section):
    """Images with captions."""

    captions: str | None = Field(default=None, min_length=1)
    """JSON lines with `file`, `captions` (a list) and, for `group_size`, `group`."""

    images: str | None = Field(default=None, min_length=1)
    """Folder that `file` is relative to."""

    group_size: int = Field(default=1, ge=1)
    """So many consecutive examples of a batch come from one `group` of the captions. Groups of
    look-alikes are hard negatives: what they share cannot tell them apart."""

    flip: float = Field(default=0.5, ge=0.0, le=1.0)
    """Probability of a mirror image. Pictures whose caption says left or right stay."""

    workers: int = Field(default=4, ge=0)
    """Processes that read pictures, for each training process; 0 reads in the training process."""
