"""Tokenizers without transformers, against transformers."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import ConfigError
from owlkit.export.tokenizer import write_tokenizer
from tests.export.models import siglip_tokenizer

TEXTS = [
    "a photo of a cat",
    "Two DOGS, on a table!",
    "the   (red)\tmug's river.",
    "na\u00efve caf\u00e9 \u00bd \ufb01sh \u6f22\u5b57 \U0001f989",
    "_98 7. ",
    "",
]


def ids_of(folder: Path, texts: list[str]) -> list[list[int]]:
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    return [encoding.ids for encoding in backend.encode_batch(texts)]


def expected_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    inner = tokenizer.transformers_tokenizer
    found: list[list[int]] = inner(texts, padding=False, truncation=False, verbose=False)[
        "input_ids"
    ]
    return found


def test_a_trained_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_tokenizer(tokenizer, tmp_path / "written", pad_to_full=False)
    assert ids_of(tmp_path / "written", TEXTS) == expected_ids(tokenizer, TEXTS)


def test_siglips_which_transformers_runs_in_python(tmp_path: Path) -> None:
    tokenizer = siglip_tokenizer(tmp_path)
    write_tokenizer(tokenizer, tmp_path / "written", pad_to_full=True)
    assert ids_of(tmp_path / "written", TEXTS) == expected_ids(tokenizer, TEXTS)
    settings = json.loads((tmp_path / "written" / "owlkit_tokenizer.json").read_text())
    assert settings == {"context_length": 12, "pad_id": 1, "end_id": 1, "pad_to_full": True}


def test_one_whose_ids_would_differ_is_refused(tmp_path: Path) -> None:
    """Without SentencePiece's own normalisation, white space in front is a token by itself."""
    tokenizer = siglip_tokenizer(tmp_path, rule="identity")
    with pytest.raises(ConfigError, match="SiglipTokenizer cannot be exported: for '  two"):
        write_tokenizer(tokenizer, tmp_path / "written", pad_to_full=True)
