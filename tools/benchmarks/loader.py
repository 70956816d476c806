"""Making training batches against merely reading the same pictures."""

import json
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.pool import Pool
from pathlib import Path

import cv2

from benchmarks.comparison import Row, seconds, summarise
from benchmarks.inputs import NAMES, make_photo
from owlkit.build.detection import build_examples, read_sources
from owlkit.config import DataSection, DatasetSection
from owlkit.data.batch import collate
from owlkit.data.examples import DetectionExamples
from owlkit.data.loader import PREFETCH, BatchPlan, build_loader
from owlkit.data.reading import use_one_thread
from owlkit.geometry import owlvit_preprocessing

SIZE = 768
BATCH = 8
BATCHES = 24  # timed
PHOTOS = 64

Picture = tuple[str, int]
"""A file, and the side of the tile that it becomes."""


def loader(repeats: int, scratch: Path) -> Iterator[Row]:
    """Mosaics of 1, 4 and 9 pictures (.4/.3/.3) at 768 pixels, by as many processes as CPUs.

    The peer reads the same files, each as often, and resizes each, in one row to the size of its
    tile, in the other to the whole input. It neither crops nor keeps boxes, and nothing leaves its
    processes.
    """
    annotations, folder = _photographs(scratch)
    section = DataSection(train=DatasetSection(annotations=str(annotations), images=str(folder)))
    preprocessing = owlvit_preprocessing(SIZE, "scenic")
    examples = build_examples(
        read_sources(section), section, preprocessing=preprocessing, batch_size=BATCH, seed=0
    )
    workers = len(os.sched_getaffinity(0))
    peers = {"loader": f"to {SIZE} px", "loader-tile": "to the size of its tile"}
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    with multiprocessing.get_context("forkserver").Pool(workers, use_one_thread) as pool:
        for repeat in range(repeats):
            our, sources = _time_loader(examples, workers, first=repeat * BATCHES)
            tiles = [*_pictures(sources)]
            pool.map(_read_and_resize, [tiles[:4]] * workers, chunksize=1)
            for name in peers:
                to_tiles = name == "loader-tile"
                pictures = tiles if to_tiles else [(file, SIZE) for file, _ in tiles]
                pairs[name].append((our, _time_reading(pool, workers, pictures)))
    kind = "photographs of COCO" if "OWLKIT_DATA" in os.environ else "synthetic photographs"
    for name, size in peers.items():
        speed = BATCHES * BATCH * repeats / sum(our for our, _ in pairs[name])
        yield summarise(
            pairs[name],
            path=name,
            peer=f"cv2.imread of the same files and cv2.resize {size}",
            settings=f"{kind}, {SIZE} px, mosaics, {workers} processes, {speed:.0f} examples/s",
        )


def _time_reading(pool: Pool, workers: int, pictures: Sequence[Picture]) -> float:
    shares = [pictures[number::workers] for number in range(workers)]
    return seconds(lambda: pool.map(_read_and_resize, shares, chunksize=1))


def _time_loader(
    examples: DetectionExamples, workers: int, *, first: int
) -> tuple[float, list[str]]:
    """Seconds of some batches, behind those that were made while nobody waited; their files.

    Of a batch nothing stays, as in training, so its memory can be that of a later one.
    """
    warm_up = 2 * PREFETCH * workers
    plan = BatchPlan(
        batch_size=BATCH, total_steps=first + warm_up + BATCHES + warm_up, start_step=first
    )
    batches = iter(build_loader(examples, plan, collate=collate, workers=workers))
    for _ in islice(batches, warm_up):
        pass
    timed: list[str] = []

    def take() -> None:
        for batch in islice(batches, BATCHES):
            timed.extend(batch.sources)

    return seconds(take), timed


def _pictures(sources: Sequence[str]) -> Iterator[Picture]:
    for source in sources:
        files = source.split(", ")
        side = math.isqrt(len(files))
        yield from ((file, SIZE // side) for file in files)


def _read_and_resize(pictures: Sequence[Picture]) -> int:
    return sum(
        cv2.resize(cv2.imread(file), (side, side), interpolation=cv2.INTER_LINEAR).shape[0]
        for file, side in pictures
    )


def _photographs(scratch: Path) -> tuple[Path, Path]:
    """COCO JSON and pictures: real ones, or, without those, made here."""
    if "OWLKIT_DATA" in os.environ:
        real = Path(os.environ["OWLKIT_DATA"]) / "coco_real"
        return real / "instances_train.json", real / "train2017"
    folder = scratch / "photographs"
    folder.mkdir()
    for number in range(PHOTOS):
        make_photo(640, 480, seed=number).save(folder / f"{number}.jpg", quality=90)
    truth = {
        "images": [
            {"id": number + 1, "file_name": f"{number}.jpg", "width": 640, "height": 480}
            for number in range(PHOTOS)
        ],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": number + 1,
                "image_id": 1 + number % PHOTOS,
                "category_id": 1 + number % len(NAMES),
                "bbox": [40 * (number % 13), 30 * (number % 11), 100, 80],
                "area": 8000,
                "iscrowd": 0,
            }
            for number in range(7 * PHOTOS)
        ],
    }
    annotations = scratch / "photographs.json"
    annotations.write_text(json.dumps(truth))
    return annotations, folder
