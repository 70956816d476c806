"""Copy detection: which image of a collection a changed copy was made of [0].

Shapes: N originals, K distractors, E width of the vectors.

- [0]: DINO, 2021, https://arxiv.org/abs/2104.14294, section 4.2.1 and eval_copy_detection.py
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import DatasetError
from owlkit.evaluation.feature_cache import Images
from owlkit.evaluation.features import Encoder
from owlkit.evaluation.image_retrieval import rank_images
from owlkit.evaluation.strong_copies import StrongCopies

# Directions with less than this share of the largest variance are taken to have so much.
_VARIANCE_FLOOR = 1e-5


@dataclass(frozen=True, eq=False)
class Whitening:
    """Makes the directions in which vectors vary equally important.

    Attributes:
        mean: [E].
        axes: Directions divided by their standard deviations [E, E].
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def learn(cls, features: Tensor) -> "Whitening":
        """Learns from vectors [K, E], of images that are neither queries nor their originals.

        Raises:
            DatasetError: If there are fewer than two.
        """
        if len(features) < 2:
            raise DatasetError(f"whitening: expected two images or more, found {len(features)}")
        mean = features.double().mean(dim=0)
        centred = features.double() - mean
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(features))
        floor = _VARIANCE_FLOOR * variances.max()
        return cls(mean, axes * variances.clamp(min=floor).rsqrt())

    def __call__(self, features: Tensor) -> Tensor:
        """Unit vectors, float32 [N, E], of vectors [N, E]."""
        return F.normalize((features.double() - self.mean) @ self.axes, dim=1).float()


def measure_copies(
    encoder: Encoder,
    originals: Images,
    *,
    distractors: Images | None = None,
    whiten: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Makes a strong copy of each image and looks for the image among all of them.

    Args:
        encoder: Of any image tower; its vectors of the kind ``copy`` are used.
        originals: N images.
        distractors: K further images to search among.
        whiten: Whether vectors are whitened, which is learned from the distractors.
        seed: Of the copies.

    Returns:
        ``copy_detection_mAP`` (see :mod:`owlkit.evaluation.image_retrieval`) and ``copy_top1``, the
        share of copies whose original is the most similar; in [0, 1].

    Raises:
        DatasetError: If too many images cannot be read, or whitening has nothing to learn from.
    """
    if whiten and distractors is None:
        raise DatasetError("whitening: expected distractors to learn it from, found none")
    encoded = encoder.images(originals, "copy")
    copied = encoder.images(StrongCopies(originals, seed), "copy")
    for each in (encoded, copied):
        each.check_enough()
    queries, database = copied.features, encoded.features
    if distractors is not None:
        others = encoder.images(distractors, "copy")
        others.check_enough()
        database = torch.cat([database, others.features])
        if whiten:
            whitening = Whitening.learn(others.features.to(encoder.device))
            queries, database = (whitening(each.to(encoder.device)) for each in (queries, database))
    # A file may have been lost between the two readings.
    places = {row: place for place, row in enumerate(encoded.rows.tolist())}
    kept = [number for number, row in enumerate(copied.rows.tolist()) if row in places]
    right = torch.tensor([places[row] for row in copied.rows[kept].tolist()])
    numbers = torch.arange(len(database))
    found = rank_images(
        queries[kept].to(encoder.device),
        database.to(encoder.device),
        lambda rows: (right[rows, None] == numbers).to(encoder.device),
        ks=(1,),
    )
    return {"copy_detection_mAP": found["mAP"], "copy_top1": found["mP@1"]}
