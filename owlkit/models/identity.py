"""By which a detector's embeddings are known again."""

import hashlib
import json

from owlkit.models.detector import OwlDetector
from owlkit.models.weight_hash import hash_weights

# Raised when the same weights come to embed otherwise, so that what was kept is made anew.
_VERSION = 1
# Two tokenizers that agree on these hardly differ elsewhere. Short, so that no row is cut.
_PROBES = ("photo", "remote", "Dogs!", "fox-10", "_98 7.", "naïve", "漢字", "🦉")


def detector_identity(detector: OwlDetector) -> str:
    """A hash of all that embeddings of images and texts depend on.

    Reads all weights: about a second for a gigabyte.

    Args:
        detector: In the precision of its checkpoint; another one gives another hash.

    Returns:
        32 hexadecimal digits.
    """
    tokens = None if detector.tokenizer is None else detector.tokenizer(_PROBES)[0].tolist()
    made_of = {
        "version": _VERSION,
        "weights": hash_weights(detector),
        "architecture": detector.architecture,
        "preprocessing": detector.preprocessing.to_dict(),
        "tokens": tokens,
    }
    text = json.dumps(made_of, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
