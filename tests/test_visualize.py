"""Drawing: the photograph shows through, chips stay inside the image and apart from each other."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from owlkit import visualize
from owlkit.detections import Detections
from owlkit.errors import DetectionsError, ImageError
from owlkit.visualize import PALETTE, class_palette, draw_detections

RED, BLUE = (250, 10, 20), (10, 20, 250)


def make(boxes, *, labels=None, names=None, scores=None, image_size=None) -> Detections:
    count = len(boxes)
    return Detections(
        boxes=boxes,
        scores=np.linspace(0.9, 0.1, count) if scores is None else scores,
        labels=np.zeros(count, int) if labels is None else labels,
        names=["cat"] * count if names is None else names,
        image_size=image_size,
    )


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def where(drawn: Image.Image, colour) -> np.ndarray:
    return (np.asarray(drawn) == colour).all(axis=2)


@pytest.fixture
def chips(monkeypatch) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Text and place (first and last pixel, xyxy) of every chip, in drawing order."""
    seen = []
    draw_chip = visualize._draw_chip

    def spy(draw, text, chip, colour, style):
        seen.append((text, chip))
        draw_chip(draw, text, chip, colour, style)

    monkeypatch.setattr(visualize, "_draw_chip", spy)
    return seen


def test_box_is_drawn_at_its_pixels_and_nowhere_inside():
    image = grey(200, 300)
    drawn = draw_detections(image, make([[50, 60, 150, 180]]), palette=[RED], line_width=3)
    assert drawn.size == (300, 200)
    assert drawn.mode == "RGB"
    red = where(drawn, RED)
    assert red[120, 50:53].all(), "left line"
    assert red[120, 147:150].all(), "right line ends before x1"
    assert red[177:180, 100].all(), "bottom line ends before y1"
    assert not red[:, 150:].any()
    assert not red[180:].any()
    inside = np.asarray(drawn)[64:176, 54:146]
    assert (inside == 128).all()
    assert (image == 128).all(), "the input is not changed"


def test_colour_follows_the_label_not_the_position():
    boxes = [[10, 40, 90, 90], [110, 40, 190, 90]]
    one = draw_detections(grey(100, 200), make(boxes, labels=[0, 1]), palette=[RED, BLUE])
    other = draw_detections(grey(100, 200), make(boxes[::-1], labels=[1, 2]), palette=[RED, BLUE])
    for drawn in (one, other):
        assert where(drawn, RED)[:, :100].any()
        assert not where(drawn, RED)[:, 100:].any()
        assert where(drawn, BLUE)[:, 100:].any()


def test_palette_is_distinct_and_its_text_is_readable():
    assert len(set(PALETTE)) == len(PALETTE) == 21
    for colour in PALETTE:
        ink = visualize._readable_on(colour)
        light, dark = sorted((_luminance(colour), _luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, "the contrast that WCAG asks for (AA)"


def _luminance(colour) -> float:
    channels = np.array(colour) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 200), (200, 3), (24, 24), (60, 90), (333, 500), (1200, 1600)]
)
def test_chips_stay_inside_and_show_the_score(chips, height, width):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(-0.2, 1.2, (8, 2, 2)), axis=1).reshape(8, 4)
    boxes = corners * np.tile([width, height], 2)
    draw_detections(grey(height, width), make(boxes))
    for _text, (x0, y0, x1, y1) in chips:
        assert 0 <= x0 < x1 < width
        assert 0 <= y0 < y1 < height
    if min(height, width) >= 60:
        assert chips[-1][0] == "cat 0.90", "the best is drawn last"
    if min(height, width) < 20:
        assert not chips


def test_chips_of_the_same_box_avoid_each_other(chips):
    names = ["cat", "small dog", "animal", "pet"]
    draw_detections(grey(400, 600), make([[200, 150, 400, 300]] * 4, names=names))
    assert len(chips) == 4
    places = [chip for _, chip in chips]
    for index, a in enumerate(places):
        for b in places[:index]:
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_chip_above_the_box_unless_there_is_no_room(chips):
    draw_detections(grey(400, 600), make([[100, 200, 300, 300]]))
    draw_detections(grey(400, 600), make([[100, 0, 300, 300]]))
    (_, above), (_, inside) = chips
    assert above[0] == 100
    assert above[3] == 199, "ends where the box begins"
    assert inside[1] == 0


def test_chips_keep_off_small_boxes_at_the_edge(chips):
    # Two boxes at the lower edge: above is room for one chip only, below for none.
    boxes = [[100, 370, 150, 400], [100, 371, 150, 400]]
    draw_detections(grey(400, 600), make(boxes, labels=[0, 1], names=["cat", "dog"]), scores=False)
    assert sorted(text for text, _ in chips) == ["cat", "dog"], "no scores"
    for _, (x0, _y0, x1, y1) in chips:
        assert y1 < 371 or x1 < 100 or x0 >= 150


def test_chips_never_hide_a_crowded_image(chips):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 400, (300, 2))
    draw_detections(grey(480, 480), make(np.concatenate([corner, corner + 50], axis=1)))
    area = sum((x1 - x0 + 1) * (y1 - y0 + 1) for _, (x0, y0, x1, y1) in chips)
    assert 20 < len(chips) < 300
    assert area <= 0.25 * 480 * 480


def test_long_names_are_shortened_to_the_image(chips):
    name = "a very long query that describes one thing in far too many words to fit"
    draw_detections(grey(200, 200), make([[20, 50, 80, 100]], names=[name]))
    draw_detections(grey(200, 80), make([[2, 50, 70, 100]], names=["cathedral"]))
    (text, chip), (without_score, _) = chips
    assert text.endswith("…")
    assert name.startswith(text[:-1])
    assert chip[2] - chip[0] > 150, "as long as it fits"
    assert without_score in ("cathedral", "cathedral 0.90")


@pytest.mark.parametrize(
    "name", ["Ångström", "чашка", "猫", "🦉 owl", "two\nlines\tand tab", "", " "]
)
def test_any_name_can_be_drawn(chips, name):
    drawn = draw_detections(grey(200, 300), make([[50, 60, 150, 180]], names=[name]))
    assert drawn.size == (300, 200)
    assert chips[0][0] == f"{' '.join(name.split())} 0.90".strip()


def test_font_and_size_can_be_chosen(chips, tmp_path):
    box = make([[50, 100, 150, 180]])
    font = tmp_path / "font.ttf"
    font.write_bytes(ImageFont.load_default(10).font_bytes)
    for options in ({"font_size": 12}, {"font_size": 40}, {"font_size": 40, "font": font}):
        draw_detections(grey(400, 400), box, **options)
    heights = [chip[3] - chip[1] for _, chip in chips]
    assert heights[1] > 2 * heights[0]
    assert heights[1] == heights[2]


def test_sizes_follow_the_image(chips):
    for scale in (1, 4):
        drawn = draw_detections(
            grey(500 * scale, 500 * scale),
            make([[100 * scale, 200 * scale, 300 * scale, 400 * scale]]),
            palette=[RED],
        )
        line = where(drawn, RED)[300 * scale, : 200 * scale].sum()
        assert line == 2 * scale
    (_, small), (_, large) = chips
    assert (large[3] - large[1]) / (small[3] - small[1]) == pytest.approx(4, abs=0.4)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([10, 10, 10, 10], id="a point"),
        pytest.param([10.2, 10, 10.4, 50], id="thinner than a pixel"),
        pytest.param([-50, -50, 500, 500], id="larger than the image"),
        pytest.param([100, 80, 100, 80], id="at the last corner"),
        pytest.param([400, 400, 500, 500], id="outside"),
    ],
)
def test_extreme_boxes_can_be_drawn(box):
    drawn = draw_detections(grey(80, 100), make([box]), palette=[RED], line_width=5)
    assert where(drawn, RED).any()


def test_nothing_to_draw():
    drawn = draw_detections(grey(20, 30), Detections.empty((20, 30)))
    assert (np.asarray(drawn) == 128).all()


def test_real_photograph(data_dir, chips):
    folder = data_dir / "coco_real"
    truth = json.loads((folder / "instances_val.json").read_text())
    image_id = 139
    entry = next(one for one in truth["images"] if one["id"] == image_id)
    photo = np.asarray(Image.open(folder / "val2017" / entry["file_name"]).convert("RGB"))
    found = [one for one in truth["annotations"] if one["image_id"] == image_id]
    boxes = np.array([one["bbox"] for one in found])
    boxes[:, 2:] += boxes[:, :2]
    detections = make(boxes, names=["thing"] * len(found), image_size=photo.shape[:2])
    drawn = np.asarray(draw_detections(photo, detections, palette=[RED]))
    assert len(chips) > 10
    # Away from boxes and chips the photograph is untouched, next to it there is something drawn.
    mask = Image.new("1", photo.shape[1::-1])
    for x0, y0, x1, y1 in [*boxes.tolist(), *(chip for _, chip in chips)]:
        ImageDraw.Draw(mask).rectangle((x0 - 3, y0 - 3, x1 + 3, y1 + 3), fill=1)
    outside = ~np.asarray(mask)
    assert outside.mean() > 0.3
    np.testing.assert_array_equal(drawn[outside], photo[outside])
    assert (drawn != photo).any(axis=2).mean() > 0.05


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
        "absent.png",
        None,
    ],
)
def test_other_images_are_refused(image):
    with pytest.raises(ImageError, match=r"expected .*found"):
        draw_detections(image, Detections.empty())


def test_any_image_source_will_do(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    detections = make([[10, 20, 60, 70]])
    expected = np.asarray(draw_detections(photo, detections))
    for source in (tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(photo)):
        np.testing.assert_array_equal(np.asarray(draw_detections(source, detections)), expected)


def test_misfits_are_refused():
    with pytest.raises(DetectionsError, match=r"\(20, 30\) \(height, width\), found \(30, 20\)"):
        draw_detections(grey(30, 20), Detections.empty((20, 30)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"palette": []}, "palette of at least one RGB colour.*found shape"),
        ({"palette": np.zeros((0, 3), int)}, "palette of at least one"),
        ({"palette": [(1, 2)]}, r"found shape \[1, 2\]"),
        ({"palette": [(1, 2, 3), (1, 2)]}, "palette of at least one"),
        ({"palette": (255, 0, 0)}, r"found shape \[3\]"),
        ({"palette": ["red"]}, r"found shape \[1\]"),
        ({"palette": [(0.5, 0.0, 1.0)]}, "found float64"),
        ({"palette": [(0, 0, 256)]}, "found int64"),
        ({"palette": [(0, 0, -1)]}, "found int64"),
        ({"line_width": 0}, "line_width of at least 1, found 0"),
        ({"line_width": 1.5}, "line_width"),
        ({"line_width": "2"}, "line_width of at least 1, found '2'"),
        ({"font_size": 0}, "font_size of at least 1, found 0"),
        ({"font_size": float("nan")}, "font_size of at least 1, found nan"),
        ({"font_size": "big"}, "font_size of at least 1, found 'big'"),
        ({"font_size": 1e9}, "font_size in its range"),
        ({"font": "no_such_font.ttf"}, "found no_such_font.ttf"),
        ({"font": __file__}, "TrueType or OpenType file.*test_visualize.py"),
        ({"font": 7}, "found 7"),
    ],
)
def test_options_that_cannot_be_used_are_named(options, message):
    with pytest.raises(DetectionsError, match=message):
        draw_detections(grey(30, 20), Detections.empty(), **options)


def test_chips_show_the_number_of_a_tracked_object(chips):
    detections = make([[10, 40, 90, 90], [110, 40, 190, 90], [10, 130, 90, 190]])
    tracked = replace(detections, track_ids=[7, -1, 12])
    draw_detections(grey(200, 200), tracked)
    assert [text for text, _ in chips] == ["#12 cat 0.10", "cat 0.50", "#7 cat 0.90"]


def test_some_classes_may_have_a_colour_of_their_own():
    palette = class_palette([None, RED, None])
    assert palette == (PALETTE[0], RED, PALETTE[2])
    boxes = [[10, 40, 90, 90], [110, 40, 190, 90]]
    drawn = draw_detections(grey(100, 200), make(boxes, labels=[0, 1]), palette=palette)
    assert where(drawn, PALETTE[0])[:, :100].any()
    assert where(drawn, RED)[:, 100:].any()
    assert len(class_palette([None] * 30)) == 30


def test_palette_may_be_an_array():
    detections = make([[10, 40, 90, 90]])
    palette = np.array([RED, BLUE], np.uint8)
    assert where(draw_detections(grey(100, 100), detections, palette=palette), RED).any()


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """How many characters are measured; each costs time."""
    lengths = []
    getlength = ImageFont.FreeTypeFont.getlength

    def spy(font, text, *args, **kwargs):
        lengths.append(len(text))
        return getlength(font, text, *args, **kwargs)

    monkeypatch.setattr(ImageFont.FreeTypeFont, "getlength", spy)
    return lengths


def test_a_name_of_any_length_is_shortened_at_once(chips, measured):
    name = "word " * 4000
    draw_detections(grey(200, 300), make([[20, 50, 80, 100]], names=[name]))
    ((text, chip),) = chips
    assert text.endswith("…")
    assert name.startswith(text[:-1])
    assert chip[2] - chip[0] > 250, "as long as it fits"
    assert sum(measured) < 3000


def test_a_font_of_the_system_writes_what_the_own_one_lacks(monkeypatch, tmp_path):
    # Both fonts are Pillow's own; the copy stands for one that has what the own one lacks.
    path = tmp_path / "font.ttf"
    path.write_bytes(ImageFont.load_default(10).font_bytes)
    monkeypatch.setattr(visualize, "_system_fonts", lambda: (str(path),))
    own = visualize.load_font(None, 10, texts=["猫"])
    assert own.path != str(path), "no better one"
    assert visualize._missing(own, "cat") == 0
    assert visualize._missing(own, "c猫 🦉") == 2

    def missing(font, characters):
        return len(set(characters) & {"猫"}) if font.path != str(path) else 0

    monkeypatch.setattr(visualize, "_missing", missing)
    assert visualize.load_font(None, 10, texts=["猫", "cat"]).path == str(path)
    assert visualize.load_font(None, 10, texts=["cat"]).path != str(path)


def test_fonts_of_the_system_are_looked_up_by_name(monkeypatch):
    monkeypatch.setattr(visualize, "_FONTS_OF_MANY_SCRIPTS", ("no such font.ttf",))
    visualize._system_fonts.cache_clear()
    try:
        assert visualize._system_fonts() == ()
        assert draw_detections(grey(99, 99), make([[9, 9, 50, 50]], names=["猫"])).size == (99, 99)
    finally:
        visualize._system_fonts.cache_clear()
