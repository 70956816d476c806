"""What happens to a picture before a model sees it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import transformers

import owlkit
from benchmarks.comparison import Row, compare
from benchmarks.inputs import NAMES, make_photo
from benchmarks.peers import check_close
from benchmarks.random_models import save_small_owlv2
from owlkit.geometry import owlv2_preprocessing


def preprocess(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWLv2's preprocessing of a 12-megapixel photograph to 960 pixels.

    A small detector has to answer alike to the pixels of both sides.
    """
    photo = np.array(make_photo(4000, 3000))
    ours = owlv2_preprocessing(960)
    save_small_owlv2(scratch / "small_owlv2")
    backend = owlkit.Predictor.from_pretrained(scratch / "small_owlv2").backend
    queries = backend.encode_texts(NAMES)
    peers = {
        "preprocess": transformers.Owlv2ImageProcessor(),
        "preprocess-pil": transformers.Owlv2ImageProcessorPil(),
    }
    for path, processor in peers.items():
        theirs = processor(photo, return_tensors="np")["pixel_values"]
        found, expected = backend.encode_images(np.concatenate([ours(photo)[0][None], theirs]))
        logits = [backend.score(features, queries) for features in (found, expected)]
        check_close("logits", *logits, "float32")
        check_close("boxes", backend.boxes(found), backend.boxes(expected), "float32", unit=1.0)
        yield compare(
            lambda: ours(photo),
            lambda processor=processor: processor(photo, return_tensors="pt"),
            path=path,
            peer=f"transformers {type(processor).__name__}",
            settings="4000x3000 to 960x960, padded; equal detections",
            repeats=repeats,
        )
