"""What runs the networks behind a predictor."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from owlkit.geometry import Preprocessing


class Backend(Protocol):
    """A detector that encodes images and texts apart and scores one against the other.

    Shapes: B images, P patches, Q queries, E embedding width.
    """

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become this model's input."""

    def encode_images(self, pixel_values: NDArray[np.float32]) -> list[Any]:
        """Encodes preprocessed images [B, 3, H, W]; returns the features of each, as kept here."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encodes Q texts as unit vectors [Q, E]."""

    def boxes(self, features: Any) -> NDArray[np.float32]:
        """One image's boxes: xyxy in [0, 1] of the model input [P, 4]."""

    def score(self, features: Any, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """One image's logits [P, Q].

        Args:
            features: One of the results of :meth:`encode_images`.
            queries: Unit vectors or means of unit vectors [Q, E]; the logit of a mean is the mean
                of the logits.
        """
