"""A tokenizer as one file that the `tokenizers` package reads by itself."""

import json
import warnings
from pathlib import Path
from typing import Any

from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import ConfigError
from owlkit.export.sentencepiece import rebuild_siglip
from owlkit.runtime.tokenizer import SETTINGS_FILE, TOKENIZER_FILE, RuntimeTokenizer

# Case, punctuation, digits, accents, wide forms, other scripts, white space, and more words than
# most contexts hold.
_PROBES = (
    "a photo of a cat",
    "Dogs! don't (stop), please; fox-10 _98 7.",
    "na\u00efve \uff26\uff35\uff2c\uff2c \u00bd \ufb01sh \u6f22\u5b57 \U0001f989",
    "  two  spaces and\ta tab ",
    "word " * 100,
)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, pad_to_full: bool) -> None:
    """Writes ``tokenizer.json`` and, beside it, what it does not hold; then compares ids.

    Args:
        tokenizer: Of the model.
        folder: Is made.
        pad_to_full: Whether the model reads rows to the end of its context.

    Raises:
        ConfigError: If the tokenizer cannot be expressed in the `tokenizers` package.
    """
    inner: Any = tokenizer.transformers_tokenizer
    backend = getattr(inner, "backend_tokenizer", None) or rebuild_siglip(inner)
    folder.mkdir()
    backend.save(str(folder / TOKENIZER_FILE))
    settings = {
        "context_length": tokenizer.context_length,
        "pad_id": tokenizer.pad_token_id,
        "end_id": tokenizer.eos_token_id,
        "pad_to_full": pad_to_full,
    }
    text = json.dumps(settings, indent=2)
    (folder / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
    _check(tokenizer, folder, pad_to_full=pad_to_full)


def _check(tokenizer: Tokenizer, folder: Path, *, pad_to_full: bool) -> None:
    written = RuntimeTokenizer.from_folder(folder)
    # A copy, because a tokenizer warns once of texts that are too long.
    original = tokenizer.with_context_length(tokenizer.context_length)
    for probe in _PROBES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            expected = original([probe], pad_to_full=pad_to_full)[0].tolist()
            found = written([probe])[0].tolist()
        if found != expected:
            kind = type(tokenizer.transformers_tokenizer).__name__
            raise ConfigError(
                f"tokenizer: {kind} cannot be exported: for {probe!r} expected the ids "
                f"{expected[0]}, found {found[0]} without transformers"
            )
