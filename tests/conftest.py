"""Fixtures shared by all tests: golden files, photographs, and small models to save and load."""

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


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained tokenizer: 300 tokens, rows of 16, end token 299."""
    from owlkit.encoders.tokenizer import Tokenizer
    from owlkit.encoders.tokenizer_training import train_tokenizer

    nouns = ("cat", "dog", "remote control", "red mug", "owl", "truck", "tree", "person", "boat")
    places = ("on a table", "in the snow", "near a river", "behind the house", "under a bridge")
    captions = [f"a photo of a {noun} {place}" for noun in nouns for place in places]
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = train_tokenizer(captions, vocab_size=300, context_length=16)
    Tokenizer(trained).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_huggingface_owl(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path
) -> Callable[..., Path]:
    """Makes and saves a small random OWL-ViT or OWLv2 with transformers alone."""
    from tests.huggingface import make_owl, save_owl_folder

    def save(model_type: str, **sizes: int) -> Path:
        folder = tmp_path_factory.mktemp(model_type)
        save_owl_folder(make_owl(model_type, **sizes), folder, tokenizer_folder)
        return folder

    return save


@pytest.fixture(scope="session")
def owlv2_folder(save_huggingface_owl: Callable[..., Path]) -> Path:
    """A small random OWLv2 as transformers saves it."""
    return save_huggingface_owl("owlv2")


@pytest.fixture(scope="session")
def owlvit_folder(save_huggingface_owl: Callable[..., Path]) -> Path:
    """A small random OWL-ViT as transformers saves it."""
    return save_huggingface_owl("owlvit")
