"""The text side of an exported model.

Shapes: Q texts, E embedding width.
"""

from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import QueryError
from owlkit.runtime.manifest import ExportedModel
from owlkit.runtime.session import GraphSession, SessionOptions
from owlkit.runtime.tokenizer import RuntimeTokenizer

# Per pass: enough to keep the hardware busy, few enough for any memory.
_TEXTS = 512
_INPUTS = ("input_ids", "attention_mask")


class ExportedTexts:
    """Encodes texts; tokenizer and graph are loaded when the first ones come.

    May be used from several threads.

    Args:
        model: The exported model.
        output: Name of what its text graph gives.
        options: Where it runs.
    """

    def __init__(self, model: ExportedModel, *, output: str, options: SessionOptions) -> None:
        self._model = model
        self._output = output
        self._options = options
        self._lock = Lock()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encodes Q texts as unit vectors [Q, E]; equal ones are encoded once.

        Raises:
            CheckpointError: If a file is missing, damaged or altered.
            QueryError: If the model was exported without a tokenizer.
            TokenError: If something is not text, or a text has no tokens.
        """
        distinct = list(dict.fromkeys(texts))
        units = np.zeros((len(distinct), self._model.embed_width), np.float32)
        for start in range(0, len(distinct), _TEXTS):
            tokenizer, session = self._parts
            ids, mask = tokenizer(distinct[start : start + _TEXTS])
            (units[start : start + _TEXTS],) = session.run(
                {"input_ids": ids, "attention_mask": mask}
            )
        row = {text: index for index, text in enumerate(distinct)}
        ordered: NDArray[np.float32] = units[[row[text] for text in texts]]
        return ordered

    @property
    def _parts(self) -> tuple[RuntimeTokenizer, GraphSession]:
        with self._lock:
            return self._loaded

    @cached_property
    def _loaded(self) -> tuple[RuntimeTokenizer, GraphSession]:
        folder, graph = self._model.folder, self._model.text_encoder
        if graph is None or not (folder / "tokenizer").is_dir():
            raise QueryError(
                f"{folder}: exported without a tokenizer, so that it cannot read texts"
            )
        tokenizer = RuntimeTokenizer.from_folder(folder / "tokenizer")
        session = GraphSession(graph, inputs=_INPUTS, outputs=[self._output], options=self._options)
        return tokenizer, session
