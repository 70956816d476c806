"""Sentences to token ids, over any transformers tokenizer, the same way for all of them.

Shapes: Q texts, L tokens in the longest row.
"""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from owlkit.errors import CheckpointError, TokenError
from owlkit.row_fitter import RowFitter

# transformers stands "no limit known" for with 1e30.
_LARGEST_SANE_CONTEXT = 1_000_000


class Tokenizer:
    """Turns texts into right-padded rows of token ids that always keep their end token.

    The sentence vector of a text tower sits on the end token. A row that is cut to the context
    length therefore loses its last words and keeps its last token; the original OWL-ViT code cuts
    the end token off, and gives every over-long text the same embedding.

    Args:
        tokenizer: A transformers tokenizer. Its padding side, padding token and maximum length are
            set to what this class uses.
        context_length: Longest row in tokens, special tokens included, at least 2. None takes the
            tokenizer's own limit.

    Raises:
        TokenError: No context length is known, or the tokenizer has neither a padding token nor an
            end token to pad with.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, context_length: int | None = None
    ) -> None:
        if context_length is None:
            context_length = tokenizer.model_max_length
            if context_length > _LARGEST_SANE_CONTEXT:
                raise TokenError("this tokenizer states no maximum length: pass context_length")
        if context_length < 2:
            raise TokenError(f"context_length: expected at least 2, found {context_length}")
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token is None:
                raise TokenError(
                    "this tokenizer has neither a padding token nor an end token: set pad_token "
                    "in its tokenizer_config.json"
                )
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        tokenizer.model_max_length = context_length
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._rows = RowFitter(context_length)

    @classmethod
    def from_pretrained(
        cls, folder_or_id: str | os.PathLike[str], *, context_length: int | None = None
    ) -> Self:
        """Loads a tokenizer that `save_pretrained` of this class or of transformers has written.

        Args:
            folder_or_id: Folder, or the id of a model on the Hugging Face hub.
            context_length: As for the class.

        Raises:
            CheckpointError: There is no such folder or model, or no tokenizer can be read from it.
            TokenError: As for the class.
        """
        name = os.fspath(folder_or_id)
        folder = Path(name).expanduser()
        is_path = isinstance(folder_or_id, os.PathLike) or name.startswith((".", "~", os.sep))
        if (is_path or name.count("/") > 1) and not folder.is_dir():
            raise CheckpointError(f"{name}: no such folder")
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
        # The tokenizers package raises plain Exception for a file that it cannot parse.
        except Exception as error:
            where = name if folder.is_dir() else f"{name}: no such folder"
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{where}: no tokenizer can be loaded: {reason}") from error
        return cls(tokenizer, context_length=context_length)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the tokenizer and its context length into a folder, which is made if needed."""
        self._tokenizer.save_pretrained(os.fspath(folder))

    def with_context_length(self, context_length: int) -> Self:
        """A copy of this tokenizer for texts of at most so many tokens, 2 or more."""
        return type(self)(copy.deepcopy(self._tokenizer), context_length=context_length)

    @property
    def transformers_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer as transformers knows it."""
        return self._tokenizer

    @property
    def context_length(self) -> int:
        """Longest row in tokens, special tokens included."""
        return self._context_length

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text (end or separator token), if there is one."""
        eos: int | None = self._tokenizer.eos_token_id
        separator: int | None = self._tokenizer.sep_token_id
        return separator if eos is None else eos

    @property
    def pad_token_id(self) -> int:
        """Id that fills the rows on the right."""
        return int(self._tokenizer.pad_token_id)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included; rows that the token embedding needs."""
        return len(self._tokenizer)

    def __call__(self, texts: Sequence[str], *, pad_to_full: bool = False) -> tuple[Tensor, Tensor]:
        """Tokenises texts.

        Warns once per tokenizer when a text is cut.

        Args:
            texts: One or more texts; a list, not a single string.
            pad_to_full: Make every row `context_length` long, as SigLIP's text tower expects,
                instead of as long as the longest.

        Returns:
            Token ids [Q, L] and attention mask [Q, L], 1 on tokens and 0 on padding; both int64,
            tokens first in every row.

        Raises:
            TokenError: There is no text, something is not text, or a text has no tokens at all.
        """
        rows = self._rows.of(texts, self._ids)
        width = self._context_length if pad_to_full else max(len(row) for row in rows)
        input_ids = torch.full((len(rows), width), self.pad_token_id, dtype=torch.int64)
        attention_mask = torch.zeros_like(input_ids)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
            attention_mask[index, : len(row)] = 1
        return input_ids, attention_mask

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        # Not verbose: the warning about long texts is ours to give.
        encoded = self._tokenizer(
            list(texts), padding=False, truncation=False, add_special_tokens=True, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids


def read_tokenizer(folder: Path, context_length: int | None) -> Tokenizer | None:
    """The tokenizer of a model folder; None if it has none.

    Args:
        folder: Where the tokenizer's files would be.
        context_length: Longest row in tokens; None takes the tokenizer's own limit.

    Raises:
        CheckpointError: If there is one and it cannot be read.
    """
    names = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
    if not any((folder / name).is_file() for name in names):
        return None
    return Tokenizer.from_pretrained(folder, context_length=context_length)
