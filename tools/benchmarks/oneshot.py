"""Finding what one example shows in many pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

import owlkit
from benchmarks.clock import seconds
from benchmarks.comparison import Row, summarise
from benchmarks.inputs import make_photo
from benchmarks.peers import TransformersDetector, check_close
from benchmarks.predict import SLOW_REPEATS, Case

TARGETS = 100
TIMED = 4
"""Targets of each repeat; their time is multiplied up to all of them, the example's is not."""

_SIZE = (640, 480)


def oneshot(repeats: int, scratch: Path) -> Iterator[Row]:
    """One reference box and 100 pictures, OWL-ViT B/32 in float32.

    Transformers asks for what the whole query image shows and encodes that image with every target;
    owlkit is asked by a box around the whole image, chooses by the same rule, and encodes it once.
    """
    case = Case.make(scratch, "owlvit")
    predictor = case.predictor()
    peer = case.peer(predictor)
    example, *targets = (scratch / f"oneshot_{number}.png" for number in range(1 + TIMED))
    for number, file in enumerate((example, *targets)):
        make_photo(*_SIZE, seed=number).save(file)
    _check(predictor, peer, example, targets[0])
    pairs = [
        _time_pair(predictor, peer, example, targets) for _ in range(min(repeats, SLOW_REPEATS))
    ]
    yield summarise(
        pairs,
        path="oneshot",
        peer="transformers image-guided detection, query image each time",
        settings=(
            f"OWL-ViT B/32, 768 px, float32, 1 reference box, {TARGETS} targets; {TIMED} targets "
            "timed and multiplied, the reference once"
        ),
    )


def _time_pair(
    predictor: owlkit.Predictor, peer: TransformersDetector, example: Path, targets: Sequence[Path]
) -> tuple[float, float]:
    queries = _question(example)
    reference = seconds(lambda: predictor.embed(queries))
    ours = seconds(
        lambda: [predictor.detect(str(target), queries, threshold=0.5) for target in targets]
    )
    theirs = seconds(lambda: [_ask_peer(peer, example, target) for target in targets])
    share = TARGETS / len(targets)
    return reference + ours * share, theirs * share


def _question(example: Path) -> owlkit.QuerySet:
    queries = owlkit.QuerySet(choice="dissimilarity")  # the rule of transformers for OWL-ViT
    queries.add_example("thing", str(example), (0, 0, *_SIZE))
    return queries


@torch.inference_mode()
def _ask_peer(peer: TransformersDetector, example: Path, target: Path) -> None:
    with Image.open(example) as query_image, Image.open(target) as image:
        inputs = peer.processor(images=image, query_images=query_image, return_tensors="pt")
    outputs = peer.model.image_guided_detection(**inputs.to(peer.model.device))
    peer.processor.post_process_image_guided_detection(
        outputs, threshold=0.5, nms_threshold=1.0, target_sizes=torch.tensor([_SIZE[::-1]])
    )


@torch.inference_mode()
def _check(
    predictor: owlkit.Predictor, peer: TransformersDetector, example: Path, target: Path
) -> None:
    """Compares all logits; both sides get the pixels of owlkit's preprocessing."""
    backend = predictor.backend
    query_pixels, pixels = (
        torch.from_numpy(backend.preprocessing(owlkit.images.load_image(file))[0])[None]
        for file in (example, target)
    )
    (chosen,) = predictor.chosen(_question(example), "thing")
    scene = predictor.encode(str(target))
    found = backend.score(scene.features, chosen.vector[None])
    device = peer.model.device
    outputs = peer.model.image_guided_detection(
        pixel_values=pixels.to(device), query_pixel_values=query_pixels.to(device)
    )
    check_close("logits", found, outputs.logits[0].cpu(), "float32")
