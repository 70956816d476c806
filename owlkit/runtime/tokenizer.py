"""Sentences to token ids without transformers, equal to :mod:`owlkit.encoders.tokenizer`.

Shapes: Q texts, L tokens in the longest row.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from owlkit.errors import CheckpointError, TokenError
from owlkit.json_file import read_json
from owlkit.row_fitter import RowFitter

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "owlkit_tokenizer.json"

TokenRows = tuple[NDArray[np.int64], NDArray[np.int64]]


class RuntimeTokenizer:
    """Turns texts into right-padded rows of token ids that always keep their end token.

    Args:
        tokenizer: Of the ``tokenizers`` package; its own truncation and padding are switched off.
        context_length: Longest row in tokens, special tokens included, at least 2.
        pad_id: Id that fills the rows on the right.
        pad_to_full: Make every row ``context_length`` long instead of as long as the longest.

    Raises:
        TokenError: If the context length is below 2.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        pad_id: int,
        pad_to_full: bool = False,
    ) -> None:
        if context_length < 2:
            raise TokenError(f"context_length: expected at least 2, found {context_length}")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.context_length = context_length
        self.pad_id = pad_id
        self.pad_to_full = pad_to_full
        self._rows = RowFitter(context_length)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Reads ``tokenizer.json`` and ``owlkit_tokenizer.json``.

        The latter is an object of ``context_length``, ``pad_id`` and, if rows are always filled to
        the full length, ``pad_to_full``.

        Raises:
            CheckpointError: If a file is missing or damaged.
        """
        settings = read_json(folder / SETTINGS_FILE)
        length, pad = (_integer(folder, settings, key) for key in ("context_length", "pad_id"))
        full = settings.get("pad_to_full", False)
        if not isinstance(full, bool):
            raise CheckpointError(
                f"{folder / SETTINGS_FILE}: pad_to_full: expected true or false, found {full!r}"
            )
        path = folder / TOKENIZER_FILE
        try:
            tokenizer = Tokenizer.from_file(str(path))
        # The tokenizers package raises plain Exception for a file that it cannot parse.
        except Exception as error:
            raise CheckpointError(f"{path}: no tokenizer can be read: {error}") from error
        return cls(tokenizer, context_length=length, pad_id=pad, pad_to_full=full)

    def __call__(self, texts: Sequence[str]) -> TokenRows:
        """Tokenises texts.

        Warns once per tokenizer when a text is cut.

        Args:
            texts: One or more texts; a list, not a single string.

        Returns:
            Token ids [Q, L] and attention mask [Q, L], 1 on tokens and 0 on padding.

        Raises:
            TokenError: There is no text, something is not text, or a text has no tokens at all.
        """
        rows = self._rows.of(texts, self._ids)
        width = self.context_length if self.pad_to_full else max(map(len, rows))
        input_ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            attention_mask[index, : len(row)] = 1
        return input_ids, attention_mask

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]


def _integer(folder: Path, settings: dict[str, Any], key: str) -> int:
    value = settings.get(key)
    if type(value) is not int or value < 0:
        raise CheckpointError(
            f"{folder / SETTINGS_FILE}: {key}: expected a number, found {value!r}"
        )
    return value
