"""Captions and classes as pairs: what is said, and which pairs mean the same."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from owlkit.data.captions import CaptionedImage
from owlkit.data.class_images import ClassImages, ImageArray
from owlkit.data.pair_sources import CaptionSource, ClassSource, caption_identity
from owlkit.errors import ConfigError, ImageError

PIXELS = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
CLASSES = ClassImages(("owl", "cat"), np.array([1, 0, 1]), ImageArray(Path("x.npz"), PIXELS))


def test_captions(tmp_path: Path) -> None:
    source = CaptionSource(
        [
            CaptionedImage(tmp_path / "a.png", ("one", "two"), "x"),
            CaptionedImage(tmp_path / "b.png", ("two ",), None),
        ]
    )
    assert len(source) == 2
    assert source.texts(0) == ("one", "two")
    assert (source.group(0), source.group(1)) == ("x", None)
    assert source.where(1) == str(tmp_path / "b.png")
    assert source.identity(0, "two") == source.identity(1, "two ")
    assert source.identity(0, "one") != source.identity(0, "two")
    with pytest.raises(ImageError, match=r"a\.png"):
        source.read(0)


def test_classes() -> None:
    source = ClassSource(CLASSES, ("a {}", "the {}."))
    assert len(source) == 3
    assert source.texts(0) == ("a cat", "the cat.")
    assert source.texts(1) == ("a owl", "the owl.")
    identities = [source.identity(row, text) for row in range(3) for text in source.texts(row)]
    assert identities == [1, 1, 0, 0, 1, 1]
    np.testing.assert_array_equal(source.read(2), PIXELS[2])
    assert source.where(2) == "x.npz[2]"
    assert source.group(0) is None


@pytest.mark.parametrize("templates", [(), ("a photo",), ("a {}", "{} and {}")])
def test_templates_need_one_place_for_the_name(templates: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected texts with one \{\} for the class"):
        ClassSource(CLASSES, templates)


def test_identities_are_the_same_in_every_process() -> None:
    captions = ["a dog", "ein Hund mit Ärmel", ""]
    code = (
        "import sys; from owlkit.data.pair_sources import caption_identity\n"
        "print([caption_identity(text) for text in sys.argv[1:]])"
    )
    command = [sys.executable, "-c", code, *captions]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([caption_identity(caption) for caption in captions])


def test_identities_fit_into_int64_and_use_it() -> None:
    identities = {caption_identity(f"caption {number}") for number in range(2000)}
    assert len(identities) == 2000
    assert 0 <= min(identities)
    assert 1 << 62 < max(identities) < 1 << 63
