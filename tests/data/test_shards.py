"""Pairs from shards: each once an epoch, the same ones whoever asks again, damage named."""

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from owlkit.data import shard_order
from owlkit.data.augmentation import Augmentation
from owlkit.data.loader import BatchPlan
from owlkit.data.pair_sources import caption_identity
from owlkit.data.pairs import CaptionPairs, PairAugmentation, collate_pairs
from owlkit.data.shard_order import ShardReader
from owlkit.data.shard_reading import Fault, Sample, find_shards, read_shard
from owlkit.data.shards import ShardSource, ShardStream, build_shard_loader
from owlkit.data.view_recipes import simclr_recipe
from owlkit.data.views import ViewAugmentation
from owlkit.errors import ConfigError, DatasetError
from tests.data.pictures import AS_IT_IS
from tests.data.tars import make_shards, members_of, picture, write_tar

PLAIN_PAIRS = CaptionPairs(PairAugmentation(AS_IT_IS, 4))


def make_stream(*urls: str, **options: object) -> ShardStream:
    options = {"shuffle_buffer": 5, **options}
    sources = [ShardSource((url,)) for url in urls]
    return ShardStream(sources, PLAIN_PAIRS, **options)  # type: ignore[arg-type]


def note_opened(monkeypatch: pytest.MonkeyPatch, opened: list[str]) -> None:
    """From now on, the shards that are read are appended."""

    def read(shard: str, *, captions: bool) -> Iterator[Sample | Fault]:
        opened.append(shard)
        return read_shard(shard, captions=captions)

    monkeypatch.setattr(shard_order, "read_shard", read)


def numbers_of(pairs) -> list[int]:
    pairs = list(pairs)
    assert all(pair.text == f"number {pair.image[0, 0, 0]}" for pair in pairs)
    return [int(pair.image[0, 0, 0]) for pair in pairs]


def numbers_in(batches) -> list[list[int]]:
    return [batch.images[:, 0, 0, 0].tolist() for batch in batches]


def test_every_example_comes_once_an_epoch_in_a_new_order(tmp_path: Path) -> None:
    stream = make_stream(make_shards(tmp_path, 7, 3, 10))
    pairs = list(islice(stream.examples(), 60))
    numbers = numbers_of(pairs)
    epochs = [tuple(numbers[start : start + 20]) for start in range(0, 60, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(epochs)) == 3
    assert tuple(range(20)) not in epochs
    assert numbers_of(islice(stream.examples(), 60)) == numbers
    other = make_stream(str(tmp_path / "*.tar"), seed=1)
    assert numbers_of(islice(other.examples(), 60)) != numbers
    assert pairs[0].identity == caption_identity(pairs[0].text)
    for pair, number in zip(pairs, numbers, strict=True):
        shard = 0 if number < 7 else 1 if number < 10 else 2
        assert pair.source == f"{tmp_path}/s-{shard}.tar:{number:04d}"


def test_a_buffer_of_one_keeps_the_order_of_a_shard(tmp_path: Path) -> None:
    stream = make_stream(make_shards(tmp_path, 9), shuffle_buffer=1)
    assert numbers_of(islice(stream.examples(), 9)) == list(range(9))


@pytest.mark.parametrize("readers", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("shards", [(12,), (5, 7), (4, 1, 4, 3), (1,) * 12])
def test_readers_share_every_epoch(tmp_path: Path, shards, readers: int) -> None:
    paths = find_shards([make_shards(tmp_path, *shards)])
    for epoch in range(3):
        shares = [
            [sample.texts for sample in ShardReader(paths, 3, 0, reader, readers, 4).epoch(epoch)]
            for reader in range(readers)
        ]
        found = Counter(text for share in shares for text in share)
        assert found == Counter((f"number {number}",) for number in range(12))
        if len(shards) == 1:
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_readers_than_examples_all_get_some(tmp_path: Path) -> None:
    stream = make_stream(make_shards(tmp_path, 2))
    for reader in range(5):
        assert len(set(numbers_of(islice(stream.examples(reader, 5), 6)))) == 2


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_that_goes_on_sees_what_it_would_have_seen(tmp_path: Path, workers: int) -> None:
    url = make_shards(tmp_path, 5, 4, 6)
    write_tar(tmp_path / "s-3.tar", {**members_of(80, 81), "0080.png": b"no picture"})
    views = ViewAugmentation(simclr_recipe(6))
    sources = [ShardSource((url,))]
    make = CaptionPairs(PairAugmentation(AS_IT_IS, 4, views))
    stream = ShardStream(sources, make, shuffle_buffer=5)

    def batches(start: int) -> list:
        plan = BatchPlan(4, 6, start_step=start, rank=1, world_size=2, accumulation=1)
        return list(build_shard_loader(stream, plan, collate=collate_pairs, workers=workers))

    whole = batches(0)
    assert len(whole) == 6
    for start in (3, 5) if workers < 2 else (3,):
        rest = batches(start)
        assert len(rest) == 6 - start
        for found, wanted in zip(rest, whole[start:], strict=True):
            assert (found.texts, found.sources) == (wanted.texts, wanted.sources)
            assert found.corrupt == wanted.corrupt
            assert torch.equal(found.images, wanted.images)
            assert torch.equal(found.views, wanted.views)
            assert torch.equal(found.identities, wanted.identities)


def test_parts_of_a_step_and_places_in_the_stream(tmp_path: Path) -> None:
    stream = make_stream(make_shards(tmp_path, 30))
    plan = BatchPlan(12, 3, rank=1, world_size=2, accumulation=3)
    loader = build_shard_loader(stream, plan, collate=collate_pairs)
    assert len(loader) == 9
    wanted = numbers_of(islice(stream.examples(1, 2), 18))
    assert numbers_in(loader) == [wanted[start : start + 2] for start in range(0, 18, 2)]
    assert (
        list(build_shard_loader(stream, BatchPlan(4, 3, start_step=5), collate=collate_pairs)) == []
    )


def test_processes_and_workers_share_one_shard(tmp_path: Path) -> None:
    """Fewer shards than readers: one epoch of four readers is every example once."""
    stream = make_stream(make_shards(tmp_path, 24))
    found = []
    for rank in range(2):
        plan = BatchPlan(6, 4, rank=rank, world_size=2)
        batches = list(build_shard_loader(stream, plan, collate=collate_pairs, workers=2))
        assert [len(batch) for batch in batches] == [3] * 4
        found += [number for batch in numbers_in(batches) for number in batch]
    assert sorted(found) == list(range(24))


def test_data_sets_come_by_their_weights(tmp_path: Path) -> None:
    first = make_shards(tmp_path, 30, name="a")
    second = make_shards(tmp_path, 20, name="b", first=100)
    sources = [ShardSource((first,), 3.0), ShardSource((second,), 1.0)]
    stream = ShardStream(sources, PLAIN_PAIRS, shuffle_buffer=4)
    numbers = numbers_of(islice(stream.examples(), 600))
    from_second = [number for number in numbers if number >= 100]
    # Within four standard deviations of a quarter.
    assert abs(len(from_second) / 600 - 0.25) < 4 * (0.25 * 0.75 / 600) ** 0.5
    assert sorted(from_second[:20]) == list(range(100, 120)), "each data set has its own epochs"
    assert sorted([number for number in numbers if number < 100][:30]) == list(range(30))


def test_broken_examples_are_left_out_or_replaced_named_and_logged_once(tmp_path, caplog) -> None:
    shard = tmp_path / "x.tar"
    bad = {
        "0001.png": b"no picture",
        "0003.txt": b"",
        "0004.txt": b"\xff",
        "0005.json": b"{",
    }
    members = {**members_of(*range(8)), **bad}
    del members["0002.png"], members["0005.txt"]
    write_tar(shard, {name: members[name] for name in sorted(members)})
    stream = make_stream(str(shard), shuffle_buffer=1)
    with caplog.at_level(logging.WARNING):
        pairs = list(islice(stream.examples(), 8))
    assert [pair.source[-4:] for pair in pairs] == ["0000", "0006", "0006", "0007"] * 2
    named = [[place[-4:] for place in pair.corrupt] for pair in pairs[:4]]
    assert named == [[], ["0001"], ["0002", "0003", "0004", "0005"], []]
    assert len(caplog.records) == 5
    for name in ("0001", "0002", "0003", "0004", "0005"):
        assert f"{shard}:{name}" in caplog.text


@pytest.mark.parametrize("cut", [1700, 2048 + 10, 3072, 3500])
def test_a_truncated_shard_gives_what_is_whole_and_one_fault(tmp_path: Path, cut: int) -> None:
    shard = write_tar(tmp_path / "x.tar", members_of(0, 1, 2))
    shard.write_bytes(shard.read_bytes()[:cut])
    *samples, fault = read_shard(str(shard))
    assert isinstance(fault, Fault)
    assert fault.where == str(shard)
    assert [sample.texts for sample in samples] == [("number 0",)]


def test_rubbish_in_a_shard_is_not_taken_for_its_end(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "x.tar", members_of(0, 1, 2))
    content = bytearray(shard.read_bytes())
    content[2048:2560] = b"x" * 512
    shard.write_bytes(content)
    assert [type(found) for found in read_shard(str(shard))][-1] is Fault


def test_a_stream_goes_on_past_a_broken_shard(tmp_path: Path) -> None:
    url = make_shards(tmp_path, 4, 4)
    (tmp_path / "s-2.tar").write_bytes(b"no archive")
    pairs = list(islice(make_stream(url).examples(), 24))
    assert Counter(numbers_of(pairs)) == Counter(list(range(8)) * 3)
    named = [place for pair in pairs for place in pair.corrupt]
    assert set(named) == {str(tmp_path / "s-2.tar")}
    assert 2 <= len(named) <= 4


def test_pipes(tmp_path: Path) -> None:
    make_shards(tmp_path, 3, 3)
    stream = make_stream(f"pipe:cat {tmp_path}/s-{{0..1}}.tar")
    assert sorted(numbers_of(islice(stream.examples(), 6))) == list(range(6))
    shard = f"pipe:cat {tmp_path}/s-0.tar; exit 3"
    *samples, fault = read_shard(shard)
    assert len(samples) == 3
    assert isinstance(fault, Fault)
    assert (fault.where, "exit 3" in fault.reason) == (shard, True)
    next(read_shard(f"pipe:cat {tmp_path}/s-0.tar"))  # left early, without a complaint


def test_captions_in_json(tmp_path: Path) -> None:
    jsons = [
        b'{"captions": ["a", " b "]}',
        b'{"caption": "c", "width": 3}',
        b"[1]",
        b'{"captions": []}',
    ]
    members = {}
    for number, text in enumerate(jsons):
        members |= {f"{number}.PNG": picture(number), f"{number}.json": text}
    found = list(read_shard(str(write_tar(tmp_path / "x.tar", members))))
    assert [sample.texts for sample in found[:2]] == [("a", "b"), ("c",)]
    assert [type(one) for one in found[2:]] == [Fault, Fault]


def test_pictures_whose_caption_says_left_or_right_are_not_mirrored(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :2] = 200
    content = cv2.imencode(".png", image)[1].tobytes()
    captions = (b"a bright half", b"bright on the left")
    members = {
        f"{n}.{end}": (content, text)[end == "txt"]
        for n, text in enumerate(captions)
        for end in ("png", "txt")
    }
    shard = write_tar(tmp_path / "x.tar", members)
    mirror = CaptionPairs(PairAugmentation(Augmentation(flip=1.0, crop=False), 4))
    pairs = islice(ShardStream([ShardSource((str(shard),))], mirror).examples(), 8)
    assert {pair.text: bool(pair.image[0, 0, 0]) for pair in pairs} == {
        "a bright half": False,
        "bright on the left": True,
    }


def test_shards_are_found(tmp_path: Path) -> None:
    for name in ("a-0.tar", "a-1.tar", "b.tar"):
        (tmp_path / name).touch()
    a0, a1, b = (str(tmp_path / name) for name in ("a-0.tar", "a-1.tar", "b.tar"))
    assert find_shards([f"{tmp_path}/a-*.tar", b]) == (a0, a1, b)
    assert find_shards([f"{tmp_path}/a-{{1..0}}.tar", "pipe:x y"]) == (a1, a0, "pipe:x y")
    with pytest.raises(DatasetError, match=r"found none at 2 of 3 places: .*a-2\.tar.*c\*\.tar"):
        find_shards([f"{tmp_path}/a-{{1..2}}.tar", f"{tmp_path}/c*.tar"])


def test_what_can_never_work_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_shards(tmp_path, 3)
    for sources, buffer in (([], 5), ([ShardSource((url,), 0.0)], 5), ([ShardSource((url,))], 0)):
        with pytest.raises(ConfigError, match="at least one data set, weights above 0"):
            ShardStream(sources, PLAIN_PAIRS, shuffle_buffer=buffer)
    texts = {f"{number}.txt": b"text" for number in range(3)}
    write_tar(tmp_path / "s-0.tar", texts)
    with pytest.raises(DatasetError, match=r"s-0\.tar.*found \d+ faults one after .*no.*image"):
        next(make_stream(url).examples())
    pictures = {f"{n}.{end}": b"x" for n in range(3) for end in ("png", "txt")}
    write_tar(tmp_path / "s-0.tar", pictures)
    with pytest.raises(DatasetError, match="found 100 one after another that cannot"):
        next(make_stream(url).examples())


@pytest.mark.parametrize("buffer", [1, 4])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_any_place_is_found_and_epochs_that_are_over_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readers: int, buffer: int
) -> None:
    sources = [ShardSource((make_shards(tmp_path, 5, 4, 6, name="a"),), 3.0)]
    sources += [ShardSource((make_shards(tmp_path, 3, 2, name="b", first=100),), 1.0)]
    # Faults in the middle and at the end of a shard, and so of some epochs.
    broken = {**members_of(80, 81, 82, 83), "0080.png": b"no picture"}
    del broken["0082.txt"], broken["0083.png"]
    write_tar(tmp_path / "a-3.tar", broken)
    stream = ShardStream(sources, PLAIN_PAIRS, shuffle_buffer=buffer)
    reader, length = readers - 1, 160
    whole = [
        (pair.source, pair.text, pair.corrupt)
        for pair in islice(stream.examples(reader, readers), length)
    ]
    opened: list[str] = []
    note_opened(monkeypatch, opened)
    for skip in range(0, length, 7):
        opened.clear()
        first = next(stream.examples(reader, readers, skip=skip))
        assert (first.source, first.text, first.corrupt) == whole[skip]
    # Each to count, then in the epoch of the place and, for the buffer, the beginning of the next.
    # Where readers share small shards, more epochs may pass until one has something for this one.
    assert max(Counter(opened).values()) <= 3 + 3 * readers


def test_skipping_nothing_reads_nothing_ahead(tmp_path: Path, monkeypatch) -> None:
    url = make_shards(tmp_path, 5, 5, 5)
    opened: list[str] = []
    note_opened(monkeypatch, opened)
    next(make_stream(url, shuffle_buffer=1).examples())
    assert len(opened) == 1


def test_shards_with_nothing_in_them(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {})
    stream = make_stream(str(tmp_path / "x.tar"))
    for skip in (0, 3):
        with pytest.raises(DatasetError, match="expected images with captions, found nothing in"):
            next(stream.examples(skip=skip))


def test_commands_reach_the_shell_as_they_are(tmp_path: Path) -> None:
    command = r"pipe:printf 'a\n::b' ${HOME} {x,y} ~ | cat s-{08..10}.tar t{0..1}"
    head, _, _ = command.partition("s-{")
    found = find_shards([command])
    assert found == tuple(f"{head}s-{n}.tar t{m}" for n in ("08", "09", "10") for m in (0, 1))
    odd = tmp_path / "a::b{0..1}[x].tar"
    odd.touch()
    assert find_shards([str(odd)]) == (str(odd),)


def test_half_a_character_is_no_caption(tmp_path: Path) -> None:
    members = {"0.png": picture(0), "0.json": b'{"caption": "a \\ud83d"}'}
    (fault,) = read_shard(str(write_tar(tmp_path / "x.tar", members)))
    assert isinstance(fault, Fault)
    assert "surrogates not allowed" in fault.reason
