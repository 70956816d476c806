"""The exported graphs beside the networks they come from, and how soon a program finds boxes."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

import owlkit
from benchmarks.comparison import Row, compare
from benchmarks.floor import tower_work
from benchmarks.inputs import make_photo
from benchmarks.peers import check_equal_answers
from benchmarks.predict import Case
from benchmarks.random_models import SMALL_TOWER, save_owlvit
from owlkit.export import export_detector
from owlkit.export.quantize import Int8Settings, quantize_folder


def onnx_fp32(repeats: int, scratch: Path) -> Iterator[Row]:
    """The float32 image graph of OWL-ViT B/32 at 768 pixels."""
    case = Case.make(scratch, "owlvit")
    exported = _exported(case)
    yield _image_graph(case, exported, "onnx-fp32", "float32", repeats)


def onnx_int8(repeats: int, scratch: Path) -> Iterator[Row]:
    """The same in dynamic 8 bits, every layer: random weights cannot say what that costs in AP."""
    case, quantized = Case.make(scratch, "owlvit"), scratch / "int8"
    if not quantized.exists():
        settings = Int8Settings(mode="dynamic", max_error=1e9)
        int8 = partial(quantize_folder, settings=settings, images=[case.photo])
        export_detector(owlkit.OwlDetector.from_pretrained(case.folder), quantized, steps=[int8])
    yield _image_graph(case, quantized, "onnx-int8", "int8 (dynamic, all layers)", repeats)


def predict_onnx(repeats: int, scratch: Path) -> Iterator[Row]:
    """From file to boxes with the float32 graph, beside transformers and owlkit on torch."""
    case = Case.make(scratch, "owlvit")
    onnx = owlkit.Predictor.from_pretrained(_exported(case))
    eager = owlkit.Predictor.from_pretrained(case.folder, device="cpu")
    peer = case.peer(onnx)
    check_equal_answers(onnx, peer, case.photo, precision="float32")
    threshold = case.threshold(onnx)
    peers = {
        "predict-onnx": (f"{peer.NAME}, float32", lambda: peer.detect(case.photo, threshold)),
        "predict-onnx-torch": ("owlkit on torch, float32", case.detect(eager, threshold)),
    }
    for path, (name, theirs) in peers.items():
        yield compare(
            case.detect(onnx, threshold),
            theirs,
            path=path,
            peer=name,
            settings=f"{case.name} ready, float32, picture to boxes",
            repeats=repeats,
            work=tower_work(case.folder, "float32"),
        )


def _exported(case: Case) -> Path:
    exported = case.folder.with_name("exported")
    if not exported.exists():
        export_detector(owlkit.OwlDetector.from_pretrained(case.folder), exported)
    return exported


def _image_graph(case: Case, exported: Path, path: str, precision: str, repeats: int) -> Row:
    """Image tower and heads alone."""
    graph = owlkit.Predictor.from_pretrained(exported).backend
    # Not by a predictor, which would replace torch's products and attention by faster ones.
    eager = owlkit.OwlDetector.from_pretrained(case.folder).eval()
    pixels = graph.preprocessing(owlkit.images.load_image(case.photo))[0][None]
    tensor = torch.from_numpy(pixels)
    return compare(
        lambda: graph.encode_images(pixels),
        torch.inference_mode()(lambda: eager.encode_images(tensor)),
        path=path,
        peer="the same model in eager torch, float32",
        settings=f"OWL-ViT B/32, 768 px, image tower and heads, {precision}",
        repeats=repeats,
        work=tower_work(case.folder, "float32") if precision == "float32" else None,
    )


_PEER = """
import sys
from transformers import pipeline
pipe = pipeline("zero-shot-object-detection", model=sys.argv[1], device="cpu")
print(len(pipe(sys.argv[2], candidate_labels=["a cat"], threshold=0.1)))
"""


def coldstart(repeats: int, scratch: Path) -> Iterator[Row]:
    """From the start of a process to the boxes of one word in one picture, in fresh processes."""
    folder, exported, photo = (scratch / name for name in ("small", "small_onnx", "cold.png"))
    _save_small(folder)
    make_photo(640, 480).save(photo)
    export_detector(owlkit.OwlDetector.from_pretrained(folder), exported)

    def detect(model: Path) -> None:
        words = ["detect", str(photo), "--queries", "a cat", "--out", str(scratch / "found")]
        _run("-m", "owlkit", *words, "--model", str(model), "--device", "cpu")

    peers = {
        "coldstart": (
            "transformers pipeline, process start to boxes",
            lambda: _run("-c", _PEER, str(folder), str(photo)),
        ),
        "coldstart-torch": (
            "the same command with the PyTorch folder",
            lambda: detect(folder),
        ),
    }
    for path, (name, theirs) in peers.items():
        yield compare(
            lambda: detect(exported),
            theirs,
            path=path,
            peer=name,
            settings="`owlkit detect`, 64 px, process start to boxes and picture",
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
        text_config={**SMALL_TOWER, "num_hidden_layers": 3},
        vision_config={**SMALL_TOWER, "num_hidden_layers": 4, "image_size": 64, "patch_size": 8},
        projection_dim=128,
    )
