"""Retrieval of images by sentences and of sentences by images, with several captions an image.

Shapes: N images, M texts, E embedding size. Similarity is the dot product, computed in float64 and
rounded to float32: then rows that are equal tie, wherever they stand in a block. Of equal
similarities the lower index is the better. Memory does not grow with N * M.

Ranks as of OpenCLIP, recall with several captions as of CLIP_benchmark:
https://github.com/mlfoundations/open_clip, https://github.com/LAION-AI/CLIP_benchmark
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.labelled import check_features, check_labels

_SIMILARITIES = 1 << 20
"""Held at a time: 8 MiB in float64."""


@dataclass(frozen=True)
class RetrievalRanks:
    """How many candidates stand before the right one; 0 is the best.

    Attributes:
        text_to_image: Rank of each text's image among all images, int64 [M].
        image_to_text: Rank of the best of each image's captions among all texts, int64 [N].
    """

    text_to_image: Tensor
    image_to_text: Tensor

    def recalls(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """`text_to_image_recall@K` and `image_to_text_recall@K`, shares of the queries in [0, 1].

        Args:
            ks: How many of the best count; each at least 1.

        Raises:
            ConfigError: If one of them is below 1.
        """
        if min(ks, default=1) < 1:
            raise ConfigError(f"ks: expected numbers >= 1, found {list(ks)}")
        return {
            f"{name}_recall@{k}": int((ranks < k).sum()) / len(ranks)
            for name, ranks in self._directions()
            for k in ks
        }

    def places(self) -> dict[str, float]:
        """`..._mean_rank` and `..._median_rank` of both directions, counted from 1."""
        return {
            f"{name}_{kind}_rank": value
            for name, ranks in self._directions()
            for kind, value in (
                ("mean", 1 + float(ranks.double().mean())),
                ("median", 1 + float(ranks.double().quantile(0.5))),
            )
        }

    def _directions(self) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
        return ("text_to_image", self.text_to_image), ("image_to_text", self.image_to_text)


def recall_at_k(
    image_embeds: Tensor,
    text_embeds: Tensor,
    text_image_index: Tensor,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Share of queries for which a right candidate is among the K best.

    A text is right for its one image. For an image any one of its captions will do.

    Args:
        image_embeds: L2-normalised rows [N, E].
        text_embeds: L2-normalised rows [M, E].
        text_image_index: The image of each text, int64 [M].
        ks: How many of the best count; each at least 1.

    Returns:
        `text_to_image_recall@K` and `image_to_text_recall@K` for each K, in [0, 1].

    Raises:
        DatasetError: If shapes or indices do not fit, or an image has no caption.
        ConfigError: If one of ``ks`` is below 1.
    """
    return retrieval_ranks(image_embeds, text_embeds, text_image_index).recalls(ks)


def retrieval_ranks(
    image_embeds: Tensor, text_embeds: Tensor, text_image_index: Tensor
) -> RetrievalRanks:
    """Ranks of the right candidates in both directions, from which all metrics follow.

    Args:
        image_embeds: L2-normalised rows [N, E].
        text_embeds: L2-normalised rows [M, E].
        text_image_index: The image of each text, int64 [M].

    Returns:
        Ranks on the device of the embeddings.

    Raises:
        DatasetError: If shapes or indices do not fit, or an image has no caption.
    """
    _check(image_embeds, text_embeds, text_image_index)
    return RetrievalRanks(
        text_to_image=_image_ranks(image_embeds, text_embeds, text_image_index),
        image_to_text=_caption_ranks(image_embeds, text_embeds, text_image_index),
    )


def _image_ranks(images: Tensor, texts: Tensor, text_image_index: Tensor) -> Tensor:
    ranks = []
    for rows, similarity in _blocks(texts, images):
        right = text_image_index[rows, None]
        ranks.append(_ranks(similarity, similarity.gather(1, right), right))
    return torch.cat(ranks)


def _caption_ranks(images: Tensor, texts: Tensor, text_image_index: Tensor) -> Tensor:
    ranks = []
    for rows, similarity in _blocks(images, texts):
        numbers = torch.arange(len(images), device=images.device)[rows, None]
        others = text_image_index != numbers
        best = similarity.masked_fill(others, -torch.inf).max(dim=1, keepdim=True).values
        # max() may point to any of several equal ones; the first of them has the best rank.
        first = (~others & (similarity == best)).int().argmax(dim=1, keepdim=True)
        ranks.append(_ranks(similarity, best, first))
    return torch.cat(ranks)


def _ranks(similarity: Tensor, own: Tensor, index: Tensor) -> Tensor:
    """Candidates of each row that stand before the one with this similarity and index."""
    earlier = torch.arange(similarity.shape[1], device=similarity.device) < index
    return ((similarity > own) | ((similarity == own) & earlier)).sum(dim=1)


def _blocks(queries: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the queries, with their similarity to all candidates."""
    columns = candidates.double().T
    step = max(1, _SIMILARITIES // len(candidates))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        yield rows, (queries[rows].double() @ columns).float()


def _check(images: Tensor, texts: Tensor, text_image_index: Tensor) -> None:
    check_features("image_embeds", images)
    check_features("text_embeds", texts)
    check_labels("text_image_index", text_image_index, len(texts))
    if images.shape[1] != texts.shape[1]:
        raise DatasetError(
            f"expected images and texts of equal width, found {images.shape[1]} and"
            f" {texts.shape[1]}"
        )
    if int(text_image_index.max()) >= len(images):
        raise DatasetError(
            f"text_image_index: expected numbers below {len(images)}, the images, found"
            f" {int(text_image_index.max())}"
        )
    bare = (torch.bincount(text_image_index, minlength=len(images)) == 0).nonzero()
    if len(bare):
        raise DatasetError(
            f"expected a caption for every image, found {len(bare)} images without, the first at"
            f" row {int(bare[0, 0])}"
        )
