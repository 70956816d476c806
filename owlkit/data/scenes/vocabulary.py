"""The 64 things that scenes are made of, and which of them are novel.

A label is ``8 * colour + shape``; its category id in the JSON files is the label + 1.
"""

# The corners of the RGB cube, pulled in a little: no light or JPEG turns one into another.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (212, 32, 38),
    "green": (36, 160, 48),
    "blue": (36, 64, 216),
    "yellow": (240, 212, 36),
    "cyan": (48, 212, 224),
    "pink": (238, 84, 196),
    "white": (242, 242, 242),
    "black": (20, 20, 20),
}

# No square: of all usual shapes it is the one that a disc of 16 pixels is most easily taken for.
SHAPES = ("circle", "triangle", "star", "cross", "ring", "crescent", "hourglass", "bar")

CLASS_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

# Two diagonals of the colour-shape table: every colour and every shape is in two novel pairs, so
# that nothing about a novel pair is new except the pairing.
NOVEL = tuple(
    sorted(
        len(SHAPES) * colour + (colour + offset) % len(SHAPES)
        for colour in range(len(COLOURS))
        for offset in (0, 3)
    )
)
BASE = tuple(label for label in range(len(CLASS_NAMES)) if label not in NOVEL)


def colour_of(label: int) -> tuple[int, int, int]:
    """The RGB colour of a label, each in 0-255."""
    return tuple(COLOURS.values())[label // len(SHAPES)]


def shape_of(label: int) -> str:
    """The name of a label's shape."""
    return SHAPES[label % len(SHAPES)]
