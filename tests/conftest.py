"""Fixtures shared by all tests: where the golden fixtures and the photographs are."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _folder_from_environment(variable: str) -> Path:
    value = os.environ.get(variable)
    if value and Path(value).is_dir():
        return Path(value)
    message = f"set {variable} to a folder; found {value!r}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real photographs and annotations."""
    return _folder_from_environment("OWLKIT_DATA")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """Returns the folder of one golden fixture, for example ``golden("01_owlvit")``."""
    return lambda name: _folder_from_environment("OWLKIT_GOLDEN") / name
