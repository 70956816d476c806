"""Rows as numbers of eight bits, and how far a product with them can be off.

A quarter of the bytes is a quarter of the time, because reading them is what a search takes. What
they leave undecided is compared in float32, so that nothing is approximated in the end.

Shapes: N rows, V vectors, E embedding width.
"""

import numpy as np
from numpy.typing import NDArray

_LEVELS = 127
# Rounding of float32 sums of thousands of products, as a share of what is summed up.
_ROUNDING = 1e-4
# Of the float32 numbers that codes become for a product: they stay in a core's cache.
_BLOCK_BYTES = 1 << 20
# Up to so many vectors one product each is faster than one product of matrices.
_FEW = 8

Floats = NDArray[np.float32]


def encode_rows(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Rounds rows to eight bits.

    Args:
        rows: Finite numbers [N, E + 1]; the last of each times 1, the others times a vector.

    Returns:
        Codes [N, E] and, for each row, the size of a step, the last number, and the length of
        what rounding took away, with room for the arithmetic [N, 3].
    """
    exact = rows[:, :-1].astype(np.float64)
    steps = (np.abs(exact).max(axis=1, initial=0) / _LEVELS).astype(np.float32)
    # Rows of zeros or of numbers too small for a step have codes of zero.
    safe = np.where(steps > 0, steps, 1).astype(np.float64)[:, None]
    codes = np.rint(exact / safe).clip(-_LEVELS, _LEVELS).astype(np.int8)
    lost = np.linalg.norm(exact - codes * steps.astype(np.float64)[:, None], axis=1)
    room = _ROUNDING * (np.linalg.norm(exact, axis=1) + np.abs(rows[:, -1]))
    return codes, np.stack([steps, rows[:, -1], lost + room], axis=1).astype(np.float32)


def greatest_logits(codes: NDArray[np.int8], terms: Floats, vectors: Floats) -> Floats:
    """What the products of rows and vectors are at most [N, V].

    By the inequality of Cauchy and Schwarz, what rounding took from a product is no more than the
    product of the lengths.

    Args:
        codes: See :func:`encode_rows` [N, E].
        terms: The same [N, 3].
        vectors: [V, E].
    """
    count, width = codes.shape
    products = np.empty((len(vectors), count), dtype=np.float32)
    block = max(1, _BLOCK_BYTES // (4 * width))
    numbers = np.empty((min(block, count), width), dtype=np.float32)
    for start in range(0, count, block):
        span = slice(start, min(start + block, count))
        part = numbers[: span.stop - start]
        np.copyto(part, codes[span])
        multiply(part, vectors, products[:, span])
    lengths = np.linalg.norm(vectors, axis=1).astype(np.float32)
    products *= terms[:, 0]
    products += terms[:, 1]
    products += lengths[:, None] * terms[:, 2]
    return products.T


def multiply(rows: Floats, vectors: Floats, out: Floats) -> None:
    """Writes the products of rows [N, E] and vectors [V, E] to ``out`` [V, N]."""
    if len(vectors) > _FEW:
        out[:] = vectors @ rows.T
        return
    for product, vector in zip(out, vectors, strict=True):
        np.matmul(rows, vector, out=product)
