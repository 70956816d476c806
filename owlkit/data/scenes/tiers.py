"""How hard the scenes of a data set are."""

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Tier:
    """What may happen in a scene; ranges are the least and the greatest value.

    Attributes:
        size: Side of the square image in pixels.
        objects: Number of objects, from 1 to 16.
        radius: Half the longer side of an object when upright, in pixels; small ones are more
            frequent, by the logarithm.
        turn: Objects are turned by up to so many degrees either way.
        shared: Greatest part of the smaller of two boxes that the other one may cover.
        hidden: Greatest part of an object's area that may be outside the image or behind others,
            less than 1.
        light: Factor of the brightness on either side of the image.
        noise: Standard deviation of the noise of a pixel, in 1/255.
        jpeg_quality: As libjpeg counts.
        full_chroma: Whether the JPEG keeps colours at full resolution (4:4:4) or at half (4:2:0).
        textured: Share of surfaces with stripes, checks or dots: backgrounds, and objects of at
            least 16 pixels.
        clutter: Greatest number of unlabelled strokes and blobs.
    """

    size: int
    objects: tuple[int, int]
    radius: Range
    turn: float
    shared: float
    hidden: float
    light: Range
    noise: Range
    jpeg_quality: tuple[int, int]
    full_chroma: bool
    textured: float
    clutter: int


TIERS = {
    "easy": Tier(
        size=64,
        objects=(1, 3),
        radius=(8, 15),
        turn=15,
        shared=0.1,
        hidden=0.02,
        light=(0.9, 1.1),
        noise=(1, 4),
        jpeg_quality=(90, 95),
        full_chroma=True,
        textured=0,
        clutter=0,
    ),
    "hard": Tier(
        size=128,
        objects=(1, 8),
        radius=(4, 22),
        turn=180,
        shared=0.8,
        hidden=0.4,
        light=(0.75, 1.15),
        noise=(1, 9),
        jpeg_quality=(50, 95),
        full_chroma=False,
        textured=0.6,
        clutter=8,
    ),
}
