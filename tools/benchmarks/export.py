"""The exported graphs beside the networks they come from, and how soon a program finds boxes."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

import owlkit
from benchmarks.comparison import Row, compare
from benchmarks.inputs import NAMES, make_photo
from benchmarks.predict import save_owlvit
from owlkit.export import export_detector
from owlkit.export.quantize import Int8Settings, quantize_folder


def predict_onnx(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWL-ViT B/32 at 768 pixels, random weights: image graph alone, and whole detections."""
    folder, exported, photo = (scratch / name for name in ("owlvit", "exported", "photo.png"))
    save_owlvit(folder, NAMES)
    make_photo(640, 480).save(photo)
    detector = owlkit.OwlDetector.from_pretrained(folder)
    export_detector(detector, exported)
    # Every layer: random weights say nothing about what a trained model loses.
    settings_8 = Int8Settings(mode="dynamic", max_error=1e9)
    quantized = scratch / "int8"
    int8 = partial(quantize_folder, settings=settings_8, images=[photo])
    export_detector(detector, quantized, steps=[int8])
    onnx, in_8_bits, eager = (
        owlkit.Predictor.from_pretrained(path, device="cpu")
        for path in (exported, quantized, folder)
    )
    queries = owlkit.QuerySet.from_text(NAMES)
    pixels = eager.backend.preprocessing(owlkit.images.load_image(photo))[0][None]
    settings = "OWL-ViT B/32, 768 px"
    for predictor, precision in ((onnx, "float32"), (in_8_bits, "int8 (dynamic)")):
        yield compare(
            lambda predictor=predictor: predictor.backend.encode_images(pixels),
            lambda: eager.backend.encode_images(pixels),
            path="predict-onnx",
            peer="owlkit in eager torch, float32",
            settings=f"{settings}, image tower and heads, {precision}",
            repeats=repeats,
        )
    settings = f"{settings}, float32"
    detect_onnx = _detect(onnx, photo, queries)
    yield compare(
        detect_onnx,
        _detect(eager, photo, queries),
        path="predict-onnx",
        peer="owlkit in eager torch, float32",
        settings=f"{settings}, 80 labels ready, picture to boxes",
        repeats=repeats,
    )
    model = transformers.OwlViTForObjectDetection.from_pretrained(folder).eval()
    processor = transformers.OwlViTProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def peer() -> Any:
        picture = Image.open(photo).convert("RGB")
        outputs = model(**processor(text=[list(NAMES)], images=picture, return_tensors="pt"))
        return processor.post_process_grounded_object_detection(
            outputs, threshold=0.3, target_sizes=[(480, 640)]
        )

    yield compare(
        detect_onnx,
        peer,
        path="predict-onnx",
        peer="transformers model and processor, all labels in one forward",
        settings=f"{settings}, 80 labels ready, picture to boxes",
        repeats=min(repeats, 5),
    )


def _detect(predictor: owlkit.Predictor, photo: Path, queries: owlkit.QuerySet) -> Any:
    predictor.embed(queries)
    return lambda: predictor.detect(str(photo), queries, threshold=0.3)


_PEER = """
import sys
from transformers import pipeline
pipe = pipeline("zero-shot-object-detection", model=sys.argv[1], device="cpu")
print(len(pipe(sys.argv[2], candidate_labels=["a cat"], threshold=0.1)))
"""


def coldstart(repeats: int, scratch: Path) -> Iterator[Row]:
    """From the start of a process to the boxes of one word in one picture, in fresh processes."""
    folder, exported, photo = (scratch / name for name in ("small", "small_onnx", "photo.png"))
    _save_small(folder)
    make_photo(640, 480).save(photo)
    export_detector(owlkit.OwlDetector.from_pretrained(folder), exported)

    def detect(model: Path) -> None:
        words = ["detect", str(photo), "--queries", "a cat", "--out", str(scratch / "found")]
        _run("-m", "owlkit", *words, "--model", str(model), "--device", "cpu")

    settings = "`owlkit detect`, 64 px, process start to boxes and picture"
    yield compare(
        lambda: detect(exported),
        lambda: detect(folder),
        path="coldstart",
        peer="the same command with the PyTorch folder",
        settings=settings,
        repeats=repeats,
    )
    yield compare(
        lambda: detect(exported),
        lambda: _run("-c", _PEER, str(folder), str(photo)),
        path="coldstart",
        peer="transformers pipeline, process start to boxes",
        settings=settings,
        repeats=repeats,
    )


def _run(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def _save_small(folder: Path) -> None:
    """A random OWL-ViT as small as the quickstart's detector: 64 pixels, 64 patches, width 128."""
    save_owlvit(
        folder,
        NAMES,
        text_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
        },
        projection_dim=128,
    )
