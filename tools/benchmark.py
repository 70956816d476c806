"""Times owlkit's hot paths against named peers: ``python tools/benchmark.py predict preprocess``.

Both sides of a comparison run in this process, on the same weights and inputs, in turn, after a
warm-up; a row is the median, the ratio is taken pair by pair. A ratio above 1 means that owlkit is
faster. With ``--json OUT`` the rows are written as a list of objects.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import owlkit
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.tokenizer_training import train_tokenizer
from owlkit.geometry import owlv2_preprocessing

LABELS = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant "
    "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe "
    "backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat "
    "baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl "
    "banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave "
    "oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
NAMES = [label.replace("_", " ") for label in LABELS.split()]


@dataclass(frozen=True)
class Row:
    """One comparison; seconds are medians, spread is the range of the ratio over its median."""

    path: str
    peer: str
    ratio: float
    owlkit_s: float
    peer_s: float
    spread: float
    settings: str


def compare(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    path: str,
    peer: str,
    settings: str,
    repeats: int,
    warm_up: bool = True,
) -> Row:
    """Times two functions in turn."""
    if warm_up:
        ours()
        theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(repeats)]
    ratios = [their / our for our, their in pairs]
    ratio = statistics.median(ratios)
    row = Row(
        path=path,
        peer=peer,
        ratio=ratio,
        owlkit_s=statistics.median(our for our, _ in pairs),
        peer_s=statistics.median(their for _, their in pairs),
        spread=(max(ratios) - min(ratios)) / ratio,
        settings=settings,
    )
    print(_markdown(row), flush=True)
    return row


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def predict(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWL-ViT B/32 at 768 pixels with 80 labels, random weights."""
    folder, photo = scratch / "owlvit", scratch / "photo.jpg"
    _save_owlvit(folder)
    _make_photo(640, 480).save(photo)
    predictor = owlkit.Predictor.from_pretrained(folder)
    backend: Any = predictor.backend
    settings = "OWL-ViT B/32, 768 px, 80 labels, float32"

    queries = owlkit.QuerySet.from_text(NAMES)
    pixels = torch.randn(1, 3, 768, 768, device=backend.device)
    tower = backend.detector.vision

    def detect() -> None:
        predictor.detect(str(photo), queries, threshold=0.3)

    @torch.inference_mode()
    def bare_tower() -> None:
        tower.model(pixels)

    yield compare(
        detect,
        bare_tower,
        path="predict",
        peer="bare timm image tower",
        settings=f"{settings}, queries ready",
        repeats=repeats,
    )
    half = owlkit.Predictor.from_pretrained(folder, precision="bfloat16")
    yield compare(
        lambda: half.detect(str(photo), queries, threshold=0.3),
        detect,
        path="predict",
        peer="owlkit in float32",
        settings="OWL-ViT B/32, 768 px, 80 labels ready, bfloat16",
        repeats=repeats,
    )

    # Last, because minutes of full load slow some processors down for what comes after.
    pipe = transformers.pipeline(
        "zero-shot-object-detection", model=str(folder), device=backend.device
    )

    def detect_from_scratch() -> None:
        # A new predictor knows no texts yet, so this pays for the text tower as the peer does.
        owlkit.Predictor(backend).detect(str(photo), NAMES, threshold=0.3)

    detect_from_scratch()
    pipe(str(photo), candidate_labels=NAMES[:2], threshold=0.3)
    yield compare(
        detect_from_scratch,
        lambda: pipe(str(photo), candidate_labels=NAMES, threshold=0.3),
        path="predict",
        peer="transformers pipeline zero-shot-object-detection",
        settings=settings,
        repeats=min(repeats, 3),
        warm_up=False,
    )


def preprocess(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWLv2's preprocessing of a 12-megapixel photograph to 960 pixels."""
    del scratch
    photo = np.array(_make_photo(4000, 3000))
    ours = owlv2_preprocessing(960)
    peers = {
        "transformers Owlv2ImageProcessor": transformers.Owlv2ImageProcessor(),
        "transformers Owlv2ImageProcessorPil": transformers.Owlv2ImageProcessorPil(),
    }
    for name, processor in peers.items():
        yield compare(
            lambda: ours(photo),
            lambda processor=processor: processor(photo, return_tensors="pt"),
            path="preprocess",
            peer=name,
            settings="4000x3000 to 960x960, padded",
            repeats=repeats,
        )


def _make_photo(width: int, height: int) -> Image.Image:
    """Smooth colours with grain, as hard to compress as a photograph."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = generator.integers(-12, 13, smooth.shape, dtype=np.int16)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def _save_owlvit(folder: Path) -> None:
    """A random OWL-ViT B/32, saved by transformers, with a tokenizer for the labels."""
    captions = [f"a photo of a {name}" for name in NAMES]
    tokenizer = Tokenizer(train_tokenizer(captions, vocab_size=400, context_length=16))
    config = transformers.OwlViTConfig(
        text_config={
            "vocab_size": tokenizer.vocab_size,
            "bos_token_id": tokenizer.vocab_size - 2,
            "eos_token_id": tokenizer.vocab_size - 1,
        }
    )
    model = transformers.OwlViTForObjectDetection(config)
    model.save_pretrained(folder)
    transformers.OwlViTProcessor(
        transformers.OwlViTImageProcessor(), tokenizer.transformers_tokenizer
    ).save_pretrained(folder)


def _markdown(row: Row) -> str:
    return (
        f"| {row.path} | {row.settings} | {row.peer} | {row.ratio:.2f} | {row.owlkit_s:.3f} | "
        f"{row.peer_s:.3f} | {row.spread:.0%} |"
    )


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (
        f"{device}, {torch.get_num_threads()} threads, {platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, owlkit {owlkit.__version__}"
    )


PATHS: dict[str, Callable[[int, Path], Iterator[Row]]] = {
    "predict": predict,
    "preprocess": preprocess,
}


def main() -> int:
    """Runs the named paths."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", choices=[*PATHS, "all"], metavar="PATH")
    parser.add_argument("--repeats", type=int, default=7, help="pairs per comparison")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    names = list(PATHS) if "all" in options.paths else options.paths
    print(f"{_machine()}\n\n| path | settings | peer | ratio | owlkit s | peer s | spread |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row for name in names for row in PATHS[name](options.repeats, Path(scratch))]
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
