"""Generators go on exactly where they were, also through JSON."""

import json
import random

import numpy as np
import torch

from owlkit.engine.random_state import (
    random_state,
    restore_random_state,
    undisturbed_random_state,
)


def draw() -> tuple[float, float, float, float, float]:
    # A single normal number leaves its twin behind in python's and numpy's state.
    return (
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(1)),
    )


def test_a_state_survives_json() -> None:
    with undisturbed_random_state():
        draw()
        saved = json.dumps(random_state())
        first = [draw() for _ in range(3)]
        restore_random_state(json.loads(saved))
        assert [draw() for _ in range(3)] == first


def test_what_happens_inside_does_not_show() -> None:
    with undisturbed_random_state():
        before = json.dumps(random_state())
        with undisturbed_random_state():
            draw()
            torch.manual_seed(1)
            random.seed(1)
            np.random.seed(1)
        assert json.dumps(random_state()) == before
