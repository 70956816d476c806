"""What the tests of trainings share."""

from tests.engine.conftest import fresh_accelerator_state

__all__ = ["fresh_accelerator_state"]
