"""Query sets as vectors, with every text encoded once."""

from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.backend import Backend
from owlkit.queries import QuerySet

# About 200 MB at width 512; a server that is asked new words for ever must not grow for ever.
REMEMBERED_TEXTS = 100_000
# A query set of thousands of prompts is put together once, not for every image.
REMEMBERED_SETS = 16


class QueryVectors:
    """Encodes query sets for one backend and remembers the latest texts and sets.

    Args:
        backend: What encodes the texts.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._texts: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._sets: OrderedDict[QuerySet, NDArray[np.float32]] = OrderedDict()
        self._lock = Lock()

    def vectors(self, queries: QuerySet) -> NDArray[np.float32]:
        """One vector per class [Q, E], as it enters the dot product with a patch.

        It is the mean of the prompts' unit vectors, whose logit is the mean of their logits; for
        the ensemble ``embeddings`` the mean is made a unit vector again.
        """
        with self._lock:
            if queries not in self._sets:
                self._sets[queries] = self._combine(queries)
            self._sets.move_to_end(queries)
            _forget(self._sets, REMEMBERED_SETS)
            return self._sets[queries]

    def _combine(self, queries: QuerySet) -> NDArray[np.float32]:
        texts = dict.fromkeys(prompt for prompts in queries.prompts for prompt in prompts)
        new = [text for text in texts if text not in self._texts]
        if new:
            self._texts.update(zip(new, self._backend.encode_texts(new), strict=True))
        for text in texts:
            self._texts.move_to_end(text)
        means = np.stack(
            [
                np.mean([self._texts[prompt] for prompt in prompts], axis=0)
                for prompts in queries.prompts
            ]
        )
        _forget(self._texts, REMEMBERED_TEXTS)
        if queries.ensemble == "embeddings":
            means /= np.linalg.norm(means, axis=-1, keepdims=True)
        return means.astype(np.float32)


def _forget(entries: OrderedDict[Any, NDArray[np.float32]], limit: int) -> None:
    """Drops what was used longest ago."""
    while len(entries) > limit:
        entries.popitem(last=False)
