"""Where the image tower of an exported model looks.

Shapes: B images; n heads; h, w cells of the patch grid; H, W pixels of the model input.
"""

from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ConfigError
from owlkit.runtime.manifest import ExportedModel
from owlkit.runtime.session import GraphSession, SessionOptions

_INPUTS = ("pixels",)
_OUTPUTS = ("attention",)


class ExportedAttention:
    """Makes attention maps; the graph is loaded when the first ones are asked for.

    May be used from several threads.

    Args:
        model: The exported model.
        size: (H, W) of the images that are going to come, in pixels.
        options: Where it runs.
    """

    def __init__(
        self, model: ExportedModel, *, size: tuple[int, int], options: SessionOptions
    ) -> None:
        self._model = model
        self._size = size
        self._options = options
        self._lock = Lock()

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Attention to the patches of preprocessed images [B, 3, H, W]: float32 [B, n, h, w].

        Raises:
            CheckpointError: If the graph's file is missing, damaged or altered.
            ConfigError: If the model was exported without attention maps, or for another size.
        """
        with self._lock:
            session = self._session
        maps: NDArray[np.float32]
        (maps,) = session.run({"pixels": pixels})
        return maps

    @cached_property
    def _session(self) -> GraphSession:
        folder, graph = self._model.folder, self._model.attention
        if graph is None:
            raise ConfigError(
                f"{folder}: exported without attention maps; export it again with --attention"
            )
        if graph.size != self._size:
            raise ConfigError(
                f"{folder}: attention maps: expected images of {graph.size}, the model's default "
                f"size, found {self._size}"
            )
        return GraphSession(graph, inputs=_INPUTS, outputs=_OUTPUTS, options=self._options)
