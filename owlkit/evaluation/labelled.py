"""What every measure on features of labelled images expects of them, checked in one place.

Shapes: N rows, E features.
"""

import torch
from torch import Tensor

from owlkit.errors import DatasetError


def check_features(name: str, features: Tensor) -> None:
    """Refuses features that no measure can use.

    Args:
        name: What they are, for the message.
        features: Expected to be [N, E], at least one row, all finite.

    Raises:
        DatasetError: If they are not.
    """
    if features.ndim != 2 or not features.numel():
        raise DatasetError(f"{name}: expected features [N, E], found shape {list(features.shape)}")
    finite = torch.isfinite(features).all(dim=1)
    if not finite.all():
        row = int(finite.logical_not().nonzero()[0, 0])
        raise DatasetError(
            f"{name}: expected finite features, found {int((~finite).sum())} rows with NaN or"
            f" infinity, the first at row {row}"
        )


def check_labels(name: str, labels: Tensor, rows: int) -> None:
    """Refuses labels that are not one class number for each row.

    Args:
        name: What they are, for the message.
        labels: Expected to be integers >= 0 [N].
        rows: N.

    Raises:
        DatasetError: If they are not.
    """
    whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
    if labels.shape != (rows,) or not whole:
        raise DatasetError(
            f"{name}: expected integer labels [{rows}], found {labels.dtype} {list(labels.shape)}"
        )
    if rows and int(labels.min()) < 0:
        raise DatasetError(f"{name}: expected labels >= 0, found {int(labels.min())}")


def check_train_and_test(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
) -> None:
    """Refuses two labelled sets that are not fit to learn on one and measure on the other.

    Args:
        train: Features [N, E].
        train_labels: Class numbers [N].
        test: Features [M, E].
        test_labels: Class numbers [M].

    Raises:
        DatasetError: If a shape, a label or a feature is not as expected.
    """
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        check_features(name, features)
        check_labels(name, labels, len(features))
    if train.shape[1] != test.shape[1]:
        raise DatasetError(
            f"expected train and test features of equal width, found {train.shape[1]} and"
            f" {test.shape[1]}"
        )


def count_classes(*labels: Tensor) -> int:
    """One more than the largest label in any of the tensors."""
    return 1 + max(int(each.max()) for each in labels)
