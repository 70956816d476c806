"""What the tests of commands that train share."""

import logging
from collections.abc import Iterator

import pytest

from tests.engine.conftest import fresh_accelerator_state
from tests.small_run import SmallData, make_small_data

__all__ = ["fresh_accelerator_state"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SmallData:
    """Scenes and a tokenizer."""
    return make_small_data(tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def silent_afterwards() -> Iterator[None]:
    """Commands show what the library logs; the next test begins without that."""
    logger = logging.getLogger("owlkit")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
