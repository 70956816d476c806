"""A backend that counts what reaches its networks."""

from collections.abc import Sequence
from typing import Any

from owlkit.torch_backend import TorchBackend


class CountingBackend(TorchBackend):
    """Counts what reaches the networks."""

    images = 0
    texts: Sequence[str] = ()

    def encode_images(self, pixel_values: Any) -> Any:
        self.images += len(pixel_values)
        return super().encode_images(pixel_values)

    def encode_texts(self, texts: Sequence[str]) -> Any:
        self.texts = [*self.texts, *texts]
        return super().encode_texts(texts)
