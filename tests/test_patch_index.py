"""The patch index against one model pass per image and a slow, obvious ranking."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owlkit import Predictor
from owlkit.backend import PatchArrays
from owlkit.calibration import Calibration
from owlkit.errors import ConfigError, DatasetError, QueryError
from owlkit.images import load_image
from owlkit.patch_index import PatchHit, PatchIndex, PatchIndexChanges, update_patch_index
from owlkit.patch_index import index as search_module
from owlkit.patch_index import update as update_module
from owlkit.patch_index.codes import encode_rows, greatest_logits
from owlkit.patch_index.shards import ImagePatches, read_shards
from owlkit.queries.compiled import CompiledQueries
from owlkit.suppression import box_iou

WIDTH, SIDE = 6, 40


class Maker:
    """Stands for a model: patches that depend on the image's first pixel alone."""

    def __init__(self, *, objectness: bool = True, patches: int = 7) -> None:
        self.objectness = objectness
        self.patches = patches
        self.images = 0

    def arrays(self, image: np.ndarray) -> tuple[PatchArrays, np.ndarray]:
        generator = np.random.default_rng(image[0, 0].astype(np.int64))

        def numbers(*shape: int) -> np.ndarray:
            return generator.standard_normal(shape, dtype=np.float32)

        corners = generator.uniform(-5, SIDE + 5, (self.patches, 2, 2)).astype(np.float32)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        boxes[2] += 3 * SIDE
        arrays = PatchArrays(
            class_embeds=numbers(self.patches, WIDTH),
            boxes=boxes / SIDE,
            logit_shift=numbers(self.patches),
            logit_scale=numbers(self.patches) ** 2 + 1,
            objectness=numbers(self.patches) if self.objectness else None,
        )
        return arrays, boxes

    def __call__(self, images: list[np.ndarray]) -> list[tuple[PatchArrays, np.ndarray]]:
        self.images += len(images)
        return [self.arrays(image) for image in images]


def write_image(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[0, 0] = number % 256, number // 256, 7
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    return {
        f"{number % 3}/{number}.png": write_image(tmp_path / "images" / f"{number}.png", number)
        for number in range(11)
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


Update = Callable[..., tuple[PatchIndex, PatchIndexChanges]]


@pytest.fixture
def update(folder: Path, images: dict[str, Path]) -> Update:
    def update(maker: Maker | None = None, **options: object) -> tuple[PatchIndex, object]:
        settings = {"identity": "model", "batch_size": 4, **options}
        return update_patch_index(folder, images, maker or Maker(), **settings)  # type: ignore[arg-type]

    return update  # type: ignore[return-value]


def unit_vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_search(
    images: dict[str, Path],
    vectors: np.ndarray,
    *,
    top: int = 50,
    per_image: int = 1,
    threshold: float = -1.0,
    nms_iou: float = 0.5,
    calibration: Calibration | None = None,
) -> list[tuple[str, tuple[float, ...], float, int]]:
    """Every patch of every image, one by one, in float64."""
    found = []
    for name in sorted(images):
        arrays, boxes = Maker().arrays(load_image(images[name]))
        entries = []
        for patch, box in enumerate(boxes.clip(0, SIDE)):
            embed = arrays.class_embeds[patch].astype(np.float64)
            cosines = vectors @ embed / (np.linalg.norm(embed) + 1e-6)
            logits = (cosines + arrays.logit_shift[patch]) * arrays.logit_scale[patch]
            query, logit = int(logits.argmax()), float(logits.max())
            score = 1 / (1 + np.exp(-logit))
            if calibration is not None:
                score = float(calibration.probabilities(np.array([logit]))[0])
            if box[0] < box[2] and box[1] < box[3] and score > threshold:
                entries.append((-score, -logit, name, patch, tuple(box.tolist()), query))
        kept: list[np.ndarray] = []
        for entry in sorted(entries):
            box = np.array([entry[4]])
            if len(kept) < per_image and not any(box_iou(box, one)[0, 0] > nms_iou for one in kept):
                kept.append(box)
                found.append(entry)
    return [(entry[2], entry[4], -entry[0], entry[5]) for entry in sorted(found)[:top]]


def assert_same(
    hits: list[PatchHit], expected: list[tuple[str, tuple[float, ...], float, int]]
) -> None:
    assert [(hit.path, hit.box, hit.query) for hit in hits] == [
        (path, box, query) for path, box, _, query in expected
    ]
    np.testing.assert_allclose([hit.score for hit in hits], [one[2] for one in expected], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 12])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top": 4},
        {"per_image": 3, "nms_iou": 0.2},
        {"per_image": 50, "nms_iou": 1.0, "top": 500},
        {"threshold": 0.8, "per_image": 3},
    ],
)
@pytest.mark.parametrize("chunk", [1, 100, 8 << 20])
def test_search_is_what_a_loop_over_all_patches_finds(
    update: Update,
    images: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    options: dict[str, float],
    chunk: int,
) -> None:
    monkeypatch.setattr(search_module, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(update_module, "_SHARD_BYTES", 500)
    index, changes = update()
    assert changes == PatchIndexChanges(kept=0, encoded=11, dropped=0, unreadable=())
    assert len(read_shards(index._shards[0].file.parent, "model")) > 2
    vectors = unit_vectors(count)
    expected = slow_search(images, vectors, **options)  # type: ignore[arg-type]
    assert_same(index.search(vectors, **options), expected)  # type: ignore[arg-type]
    assert expected


def test_calibrated_scores_rank_and_equal_ones_follow_the_logit(
    update: Update, images: dict[str, Path]
) -> None:
    index, _ = update()
    vectors = unit_vectors(1)
    steps = Calibration.isotonic([-1.0, 0.0, 2.0, 2.5], [0.1, 0.3, 0.3, 0.9])
    expected = slow_search(images, vectors, calibration=steps)
    assert_same(index.search(vectors, calibrations=[steps]), expected)
    assert sum(one[2] == np.float32(0.3) for one in expected) > 1
    two = unit_vectors(2)
    limits = [1.0, 0.5]
    hits = index.search(two, threshold=limits, calibrations=[None, Calibration.linear(2.0)])
    assert {hit.query for hit in hits} == {1}
    assert all(hit.score == pytest.approx(1 / (1 + np.exp(-2 * hit.logit))) for hit in hits)


def test_a_negative_takes_its_patches_away(update: Update) -> None:
    index, _ = update()
    vectors = unit_vectors(1)
    found = index.search(vectors, per_image=9, top=500)
    opposite = CompiledQueries.of([vectors], [-vectors], np.empty((0, WIDTH), np.float32))
    left = index.search(opposite, per_image=9, top=500)
    assert 0 < len(left) < len(found)
    same = CompiledQueries.of([vectors], [vectors], np.empty((0, WIDTH), np.float32))
    assert index.search(same) == []


@pytest.mark.parametrize("folder_name", ["owlv2_folder", "owlvit_folder"])
def test_logits_are_the_models_own(
    request: pytest.FixtureRequest, tmp_path: Path, folder_name: str, data_dir: Path
) -> None:
    predictor = Predictor.from_pretrained(request.getfixturevalue(folder_name), device="cpu")
    path = min(data_dir.rglob("*.jpg"))
    image = load_image(path)
    scene = predictor.encode(image)
    vectors = predictor.backend.encode_texts(["a cat", "a dog"])

    def encode(pixels: list[np.ndarray]) -> list[tuple[PatchArrays, np.ndarray]]:
        return [(predictor.patches(one), one.boxes) for one in predictor.encode(pixels)]

    index, _ = update_patch_index(
        tmp_path, {"photo.jpg": path}, encode, identity=predictor.backend.identity
    )
    logits = predictor.backend.score(scene.features, vectors)
    height, width = image.shape[:2]
    clipped = scene.boxes.clip(0, [width, height] * 2)
    seen = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    assert 0 < seen.sum()
    patches = index.patches(0)
    ends = np.ones((2, 1), np.float32)
    np.testing.assert_allclose(
        patches.rows @ np.concatenate([vectors, ends], axis=1).T, logits[seen], atol=2e-5
    )
    np.testing.assert_array_equal(patches.boxes, clipped[seen])
    found = predictor.detect(scene, ["a cat", "a dog"], threshold=0.0)
    (hit,) = index.search(vectors)
    assert hit.score == pytest.approx(found.scores[0], abs=1e-5)
    np.testing.assert_allclose(hit.box, found.boxes[0], atol=1e-3)


def test_only_what_changed_is_encoded(
    update: Update, images: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_module, "_SHARD_BYTES", 900)
    update()
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    maker = Maker()
    index, changes = update(maker)
    assert (maker.images, changes) == (0, PatchIndexChanges(11, 0, 0, ()))
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    write_image(images["1/4.png"], 300)
    os.utime(images["1/4.png"], ns=(1, 1))
    images["new.png"] = write_image(folder.parent / "new.png", 301)
    images["odd\udcff.png"] = images["2/2.png"]
    images["broken.png"] = folder.parent / "broken.png"
    images["broken.png"].write_bytes(b"no picture")
    del images["0/3.png"], images["0/0.png"]
    index, changes = update(maker)
    assert maker.images == 3
    broken = str(images.pop("broken.png"))
    assert changes == PatchIndexChanges(kept=8, encoded=3, dropped=2, unreadable=(broken,))
    vectors = unit_vectors(3)
    assert_same(index.search(vectors), slow_search(images, vectors))
    stored = [path for shard in read_shards(folder, "model") for path in shard.paths]
    assert sorted(stored) == sorted(images)
    assert len(index) == len(images)
    opened = PatchIndex.open(folder, "model")
    assert opened.search(vectors) == index.search(vectors)


def test_a_stamp_of_ones_own_tells_what_changed(update: Update, images: dict[str, Path]) -> None:
    stamps = {path: (number, 0) for number, path in enumerate(images.values())}
    update(stamp=stamps.get)
    first, second, *_ = images.values()
    os.utime(first, ns=(1, 1))
    stamps[second] = 0, 1
    _, changes = update(maker := Maker(), stamp=stamps.get)
    assert (maker.images, changes) == (1, PatchIndexChanges(10, 1, 0, ()))


def test_an_index_is_not_replaced_by_that_of_another_folder(
    update: Update, images: dict[str, Path], folder: Path
) -> None:
    update()
    maker = Maker()
    with pytest.raises(DatasetError, match="expected an index of these images, found one of 11"):
        update_patch_index(folder, {"a.png": images["0/0.png"]}, maker, identity="model")
    assert maker.images == 0
    assert len(PatchIndex.open(folder, "model")) == 11


def test_an_interrupted_update_keeps_what_it_encoded(
    update: Update, images: dict[str, Path], folder: Path
) -> None:
    class Stopped(Maker):
        def __call__(self, pixels: list[np.ndarray]) -> list[tuple[PatchArrays, np.ndarray]]:
            if self.images >= 4:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    with pytest.raises(KeyboardInterrupt):
        update(Stopped())
    assert len(PatchIndex.open(folder, "model")) == 4
    (first,) = folder.iterdir()
    whole = first.read_bytes()
    maker = Maker()
    index, changes = update(maker)
    assert (maker.images, changes.kept, changes.encoded) == (7, 4, 7)
    # A process that was killed before it removed what it had replaced.
    (folder / first.name).write_bytes(whole)
    write_image(images["0/0.png"], 500)
    vectors = unit_vectors(2)
    assert PatchIndex.open(folder, "model").search(vectors) == index.search(vectors)
    os.utime(images["0/0.png"], ns=(1, 1))
    index, changes = update(maker)
    assert (changes.kept, changes.encoded) == (10, 1)
    assert_same(index.search(vectors), slow_search(images, vectors))
    assert len(list(folder.iterdir())) == 1


def test_the_best_patches_by_objectness(update: Update, images: dict[str, Path]) -> None:
    index, _ = update(patches_per_image=3)
    arrays, boxes = Maker().arrays(load_image(images[index.paths[5]]))
    assert arrays.objectness is not None
    order = [int(patch) for patch in np.argsort(-arrays.objectness) if patch != 2]
    inside = [p for p in order if (boxes[p].clip(0, SIDE)[:2] < boxes[p].clip(0, SIDE)[2:]).all()]
    expected = boxes[sorted(inside[:3])].clip(0, SIDE)
    np.testing.assert_array_equal(index.patches(5).boxes, expected)
    maker = Maker()
    assert update(maker)[1].kept == 11, "as many as the index has"
    with pytest.raises(DatasetError, match=r"index of 4 patches per image, found one of 3; choose"):
        update(patches_per_image=4)
    assert maker.images == 0


def test_patches_cannot_be_chosen_without_objectness(update: Update, folder: Path) -> None:
    with pytest.raises(QueryError, match="expected a model that predicts objectness"):
        update(Maker(objectness=False), patches_per_image=3)
    assert list(folder.iterdir()) == []
    assert update(Maker(objectness=False))[1].encoded == 11


def test_images_without_a_visible_patch_are_known_and_never_found(
    update: Update, images: dict[str, Path]
) -> None:
    class Blind(Maker):
        def arrays(self, image: np.ndarray) -> tuple[PatchArrays, np.ndarray]:
            arrays, boxes = super().arrays(image)
            return arrays, boxes + (1000 if image[0, 0, 0] in (0, 1, 5, 9) else 0)

    index, _ = update(Blind())
    found = index.search(unit_vectors(1))
    blind = {"0/0.png", "1/1.png", "2/5.png", "0/9.png"}
    assert {hit.path for hit in found} == set(images) - blind
    maker = Blind()
    assert update(maker)[1].kept == 11


def test_another_model_and_damage_are_refused(
    update: Update, images: dict[str, Path], folder: Path
) -> None:
    update()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    with pytest.raises(
        DatasetError, match=r"of this model \(other\), found one of another .*model"
    ):
        update(identity="other")
    with pytest.raises(DatasetError, match="found one of another"):
        PatchIndex.open(folder, "other")
    damaged = (b"", whole[:9], whole[:-1], b"\xff" * 64, whole.replace(b"index 1", b"index 2"))
    damaged += (whole.replace(b"F32", b"I32"), whole.replace(b'"rows"', b'"rowz"'))
    for content in damaged:
        file.write_bytes(content)
        maker = Maker()
        with pytest.raises(DatasetError, match=r"expected a part of a patch index, found that it"):
            update(maker)
        assert (maker.images, file.read_bytes()) == (0, content)
    with pytest.raises(DatasetError, match="expected a patch index, found none"):
        PatchIndex.open(folder / "absent", "model")


def test_cut_and_changed_files_are_an_error_or_the_same(update: Update, folder: Path) -> None:
    index, _ = update()
    vectors = unit_vectors(2)
    expected = index.search(vectors)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    generator = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[generator.integers(header)] = generator.integers(256)
        file.write_bytes(content)
        try:
            found = PatchIndex.open(folder, "model").search(vectors)
        except DatasetError:
            continue
        # A letter of a name in the notes may change what nobody reads.
        assert [hit.logit for hit in found] == [hit.logit for hit in expected]


def test_nan_is_said(update: Update, folder: Path) -> None:
    class Broken(Maker):
        def arrays(self, image: np.ndarray) -> tuple[PatchArrays, np.ndarray]:
            arrays, boxes = super().arrays(image)
            if image[0, 0, 0] == 8:
                arrays.class_embeds[0] = np.nan
            return arrays, boxes

    with pytest.raises(DatasetError, match=r"2/8.png: expected finite numbers of the model, found"):
        update(Broken())
    index, _ = update()
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    start = content.index(index.patches(0).rows[0].tobytes())
    content[start : start + 4] = np.float32(np.nan).tobytes()
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"expected numbers, found NaN for 0/0.png"):
        PatchIndex.open(folder, "model").search(unit_vectors(1))


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (np.zeros(WIDTH), {}, r"expected one or more finite vectors \[V, E\], found shape \[6\]"),
        (np.zeros((0, WIDTH)), {}, "expected one or more finite vectors"),
        (np.full((1, WIDTH), np.nan), {}, "with NaN or infinity"),
        (np.zeros((1, WIDTH + 1)), {}, r"expected vectors \[V, 6\], found width 7"),
        ("words", {}, "of numbers, found 'words'"),
        (unit_vectors(1), {"top": 0}, "top: expected an integer of at least 1, found 0"),
        (unit_vectors(1), {"per_image": 1.5}, "per_image: expected an integer of at least 1"),
        (unit_vectors(1), {"threshold": 1.5}, r"threshold in \[0, 1\].* found 1.5"),
        (unit_vectors(1), {"threshold": [0.1, 0.2]}, r"threshold in \[0, 1\], or 1 of them"),
        (unit_vectors(1), {"nms_iou": 2}, r"nms_iou: expected a number in \[0, 1\], found 2"),
        (unit_vectors(2), {"calibrations": [None]}, "expected 2 calibrations"),
    ],
)
def test_what_cannot_be_asked_is_said(
    update: Update, vectors: object, options: dict[str, object], message: str
) -> None:
    index, _ = update()
    with pytest.raises(QueryError, match=message):
        index.search(vectors, **options)  # type: ignore[arg-type]


def test_what_cannot_be_updated_is_said(tmp_path: Path) -> None:
    for name in ("batch_size", "patches_per_image"):
        with pytest.raises(ConfigError, match=f"{name}: expected an integer of at least 1"):
            update_patch_index(tmp_path, {}, Maker(), identity="model", **{name: 0})  # type: ignore[arg-type]
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="expected a folder for the index, found that"):
        update_patch_index(tmp_path / "file", {}, Maker(), identity="model")
    index, _ = update_patch_index(tmp_path / "empty", {}, Maker(), identity="model")
    assert (len(index), index.search(unit_vectors(1))) == (0, [])


def test_eight_bits_never_promise_too_little() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((300, WIDTH + 1)).astype(np.float32)
    rows *= (10.0 ** generator.integers(-30, 6, (300, 1))).astype(np.float32)
    rows[7] = 0
    rows[8, :-1] = 0
    vectors = unit_vectors(11)
    codes, terms = encode_rows(rows)
    exact = rows[:, :-1].astype(np.float64) @ vectors.T + rows[:, -1:]
    for chosen in (vectors, vectors[:2]):
        greatest = greatest_logits(codes, terms, chosen)
        room = greatest - exact[:, : len(chosen)]
        assert (room >= 0).all()
        lengths = np.linalg.norm(rows[:, :-1].astype(np.float64), axis=1)
        # Half a step in each of six directions, there and back, and the room for arithmetic.
        assert (room.max(axis=1) <= 0.021 * lengths + 3e-4 * np.abs(rows).sum(axis=1)).all()
    assert codes.dtype == np.int8


def test_an_array_without_room_for_a_direction_scores_its_shift() -> None:
    arrays = PatchArrays(
        class_embeds=np.zeros((1, 3), np.float32),
        boxes=np.array([[0, 0, 1, 1]], np.float32),
        logit_shift=np.array([2], np.float32),
        logit_scale=np.array([3], np.float32),
    )
    patches = ImagePatches.of(arrays, np.array([[0, 0, 9, 9]], np.float32), (9, 9))
    np.testing.assert_array_equal(patches.rows, [[0, 0, 0, 6]])
