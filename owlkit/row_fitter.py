"""Rows of token ids that keep their end token, whoever made them."""

import warnings
from collections.abc import Callable, Sequence

from owlkit.errors import TokenError


class RowFitter:
    """Checks texts and cuts their rows of ids; warns once that it does.

    Args:
        context_length: Longest row in tokens, special tokens included, at least 2.
    """

    def __init__(self, context_length: int) -> None:
        self._context_length = context_length
        self._has_warned = False

    def of(
        self, texts: Sequence[str], encode: Callable[[Sequence[str]], list[list[int]]]
    ) -> list[list[int]]:
        """The ids of each text; of a long one the first and the last.

        Args:
            texts: One or more.
            encode: Gives the ids of each, uncut, special tokens included.

        Raises:
            TokenError: If there are no texts, or one is none or has no tokens.
        """
        if isinstance(texts, str):
            raise TokenError(f"expected a list of texts, found the single text {texts!r}")
        if not texts:
            raise TokenError("expected at least one text, found none")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TokenError(f"text {index}: expected text, found {type(text).__name__}")
        rows = []
        # No comprehension: it is a frame of its own in some versions of Python, and the warning
        # names the caller's.
        for ids, text in zip(encode(texts), texts, strict=True):
            rows.append(self._cut(ids, text))
        return rows

    def _cut(self, ids: list[int], text: str) -> list[int]:
        if not ids:
            raise TokenError(f"{text!r} has no tokens, so there is no vector for it")
        if len(ids) <= self._context_length:
            return ids
        if not self._has_warned:
            self._has_warned = True
            shown = repr(text if len(text) <= 80 else f"{text[:77]}...")
            warnings.warn(
                f"{shown} has {len(ids)} tokens and is cut to the limit of "
                f"{self._context_length}; further texts are cut without a warning",
                UserWarning,
                stacklevel=4,
            )
        return ids[: self._context_length - 1] + ids[-1:]
