"""The same examples in the same batches, however many processes and workers make them."""

import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

from owlkit.data.augmentation import Augmentation
from owlkit.data.batch import collate
from owlkit.data.loader import BatchPlan, build_loader
from owlkit.errors import ConfigError
from owlkit.structures import DetectionBatch
from tests.data.pictures import make_dataset, make_examples

TARGETS = ("boxes", "labels", "box_mask", "query_mask")
join = partial(collate, padding="negative", max_queries=4)


@pytest.fixture
def examples(tmp_path):
    dataset = make_dataset(tmp_path, [[0, 1], [2], [1, 2, 0], [], [1]])
    return make_examples(dataset, augmentation=Augmentation(), mosaic=(0.5, 0.5), seed=5)


def assert_same(a: DetectionBatch, b: DetectionBatch) -> None:
    assert (a.texts, a.sources, a.corrupt) == (b.texts, b.sources, b.corrupt)
    for one, other in (
        (a.images, b.images),
        (a.queries, b.queries),
        *((getattr(a.targets, name), getattr(b.targets, name)) for name in TARGETS),
    ):
        assert torch.equal(one, other)


def test_indices_by_hand():
    plan = BatchPlan(12, 5, start_step=3, rank=1, world_size=2, accumulation=3)
    assert list(plan) == [[42, 43], [44, 45], [46, 47], [54, 55], [56, 57], [58, 59]]
    assert len(plan) == 6


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 1), (1, 4), (3, 2), (4, 3)])
def test_processes_and_parts_share_the_examples_of_a_step(world_size, accumulation):
    plans = [
        BatchPlan(12, 7, start_step=2, rank=rank, world_size=world_size, accumulation=accumulation)
        for rank in range(world_size)
    ]
    batches = [list(plan) for plan in plans]
    assert all(len(plan) == len(batch) for plan, batch in zip(plans, batches, strict=True))
    for step in range(5):
        indices = [
            index
            for batch in batches
            for part in batch[step * accumulation : (step + 1) * accumulation]
            for index in part
        ]
        assert indices == list(range(12 * (step + 2), 12 * (step + 3)))


def test_no_step_is_left():
    plan = BatchPlan(4, 3, start_step=5)
    assert len(plan) == len(list(plan)) == 0


def test_shares_must_be_whole():
    with pytest.raises(ConfigError, match=r"train.accumulation = 4 x 3 = 12; found 32"):
        BatchPlan(32, 1, world_size=4, accumulation=3)


def test_a_run_that_goes_on_sees_what_it_would_have_seen(examples):
    whole = list(build_loader(examples, BatchPlan(4, 6), collate=join))
    rest = list(build_loader(examples, BatchPlan(4, 6, start_step=4), collate=join))
    assert len(rest) == 2
    for found, wanted in zip(rest, whole[4:], strict=True):
        assert_same(found, wanted)


def test_two_processes_make_the_batches_of_one(examples):
    for whole, *halves in zip(
        build_loader(examples, BatchPlan(4, 3), collate=join),
        *(
            build_loader(examples, BatchPlan(4, 3, rank=rank, world_size=2), collate=join)
            for rank in range(2)
        ),
        strict=True,
    ):
        assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
        assert sum((half.sources for half in halves), ()) == whole.sources


def test_the_training_process_keeps_its_random_numbers(examples):
    state = torch.get_rng_state()
    next(iter(build_loader(examples, BatchPlan(2, 1), collate=join)))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_make_the_same_batches_and_leave_ctrl_c_to_the_training(examples):
    plan = BatchPlan(4, 6, start_step=1)
    wanted = list(build_loader(examples, plan, collate=join))
    batches = iter(build_loader(examples, plan, workers=2, collate=join))
    assert_same(next(batches), wanted[0])
    for worker in batches._workers:
        os.kill(worker.pid, signal.SIGINT)
    for found, batch in zip(batches, wanted[1:], strict=True):
        assert_same(found, batch)


TRAINING = """
import signal
import time

import torch
from torch.utils.data import TensorDataset, default_collate

from owlkit.data.loader import BatchPlan, build_loader

heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
plan = BatchPlan(batch_size=2, total_steps=200)
numbers = TensorDataset(torch.arange(400))
batches = iter(build_loader(numbers, plan, collate=default_collate, workers=2))
next(batches), next(batches)  # one of each worker
print("ready", flush=True)
while not heard:
    time.sleep(0.02)
print(2 + sum(1 for _ in batches), signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN)
"""


def test_workers_outlive_a_signal_to_the_whole_group():
    """A scheduler's SIGTERM reaches the workers and the process that starts them, too."""
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        begun = process.stdout.readline()
        os.killpg(process.pid, signal.SIGTERM)
        said, errors = process.communicate(timeout=60)
    assert (begun, said) == ("ready\n", "200 True\n"), errors
