"""Blocks that look at what comes in before any of it is used."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from page.messages import message


class GuardedBlocks(gr.Blocks):
    """Blocks whose inputs name no file but uploads, and no address.

    Without this any input, whatever its control takes, may name an address that gradio fetches.

    Args:
        uploads: The folder in which gradio keeps them.
        **options: Of :class:`gradio.Blocks`.
    """

    def __init__(self, uploads: Path, **options: Any) -> None:
        super().__init__(**options)
        self._uploads = uploads

    async def preprocess_data(self, block_fn: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        """Turns what a request holds into the arguments of a listener.

        Raises:
            Error: If it names a file that was not uploaded, or is nothing that its control takes.
        """
        try:
            json.dumps(inputs, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise message("expected Unicode text and finite numbers, found others") from error
        for place in _places(inputs):
            if not self._is_upload(place):
                raise message("expected uploaded files alone, found another path or an address")
        try:
            return await super().preprocess_data(block_fn, inputs, *rest, **options)
        except gr.Error:
            raise
        except Exception as error:
            raise message("expected values as the page sends them, found others") from error

    def _is_upload(self, place: object) -> bool:
        if not isinstance(place, str) or "\0" in place:
            return False
        return Path(os.path.normpath(place)).is_relative_to(self._uploads)


def _places(value: object) -> Iterator[object]:
    """Whatever is named as a path, however deep it lies."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if one.get("path") is not None:
                yield one["path"]
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
