"""Batches against a slow version that reads them box by box."""

import numpy as np
import pytest
import torch

from owlkit.data.batch import collate
from owlkit.data.examples import Example


def example(texts: str, boxes: int, *, seed: int = 0, corrupt: tuple[str, ...] = ()) -> Example:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.random((boxes, 2, 2), dtype=np.float32), axis=1).reshape(-1, 4)
    return Example(
        image=generator.integers(256, size=(6, 5, 3), dtype=np.uint8),
        texts=tuple(texts),
        labels=generator.random((boxes, len(texts))) < 0.5,
        boxes=corners,
        source=f"{seed}.jpg",
        images_read=4 + len(corrupt),
        corrupt=corrupt,
    )


EXAMPLES = (
    example("abc", 2, seed=0),
    example("db", 0, seed=1, corrupt=("x.jpg", "y.jpg")),
    example("", 0, seed=2),
    example("cdaef", 4, seed=3, corrupt=("z.jpg",)),
)


@pytest.mark.parametrize(("padding", "width"), [("masked", 5), ("negative", 7)])
def test_every_example_is_found_again(padding, width):
    batch = collate(EXAMPLES, padding=padding, max_queries=7)
    targets = batch.targets
    assert len(batch) == 4
    assert sorted(set(batch.texts)) == sorted(batch.texts)
    assert batch.queries.shape == (4, width)
    assert targets.labels.shape == (4, 4, width)
    assert targets.boxes.shape == (4, 4, 4)
    for row, one in enumerate(EXAMPLES):
        np.testing.assert_array_equal(batch.images[row].numpy(), one.image.transpose(2, 0, 1))
        asked = [batch.texts[column] for column in batch.queries[row].tolist()]
        assert tuple(asked[: len(one.texts)]) == one.texts
        assert targets.box_mask[row].tolist() == [number < len(one.boxes) for number in range(4)]
        for number, (x0, y0, x1, y1) in enumerate(one.boxes.tolist()):
            wanted = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            assert targets.boxes[row, number].tolist() == pytest.approx(wanted, abs=1e-6)
            right = {asked[column] for column in targets.labels[row, number].nonzero()}
            assert right == {one.texts[column] for column in one.labels[number].nonzero()[0]}
        assert not targets.boxes[row, len(one.boxes) :].any()
        assert not targets.labels[row, len(one.boxes) :].any()
        assert not targets.labels[row, :, len(one.texts) :].any()
        if padding == "masked":
            assert targets.query_mask[row].tolist() == [n < len(one.texts) for n in range(5)]
            assert not batch.queries[row, len(one.texts) :].any(), "padding points to row 0"
        else:
            assert targets.query_mask[row].all()
            assert asked[len(one.texts) :] == [""] * (7 - len(one.texts))
    assert batch.sources == ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    assert batch.images_read == 19
    assert batch.corrupt == ("x.jpg", "y.jpg", "z.jpg")


def test_types():
    batch = collate(EXAMPLES)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.queries.dtype == torch.int64
    assert batch.targets.boxes.dtype == batch.targets.labels.dtype == torch.float32
    assert batch.targets.box_mask.dtype == batch.targets.query_mask.dtype == torch.bool


@pytest.mark.parametrize(("padding", "width"), [("masked", 1), ("negative", 3)])
def test_no_box_and_no_query_anywhere(padding, width):
    batch = collate([example("", 0), example("", 0)], padding=padding, max_queries=3)
    assert batch.texts == ("",)
    assert batch.queries.tolist() == [[0] * width] * 2
    assert batch.targets.labels.shape == (2, 0, width)
    assert batch.targets.boxes.shape == (2, 0, 4)
    assert batch.targets.query_mask.all() == (padding == "negative")
