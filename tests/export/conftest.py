"""Models that tests of exports share."""

from pathlib import Path

import pytest

from owlkit.encoders.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    """300 tokens, rows of 16."""
    return Tokenizer.from_pretrained(tokenizer_folder)
