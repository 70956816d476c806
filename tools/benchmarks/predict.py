"""Detection of 80 labels in one picture with a model that is loaded, from the file to the boxes.

"Queries ready": owlkit has encoded the texts before. The transformers model cannot keep them: its
side tokenises and encodes the labels each time. Both sides return about a hundred boxes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

import owlkit
from benchmarks.comparison import Row, compare
from benchmarks.floor import tower_work
from benchmarks.inputs import NAMES, make_photo
from benchmarks.peers import TransformersDetector, check_equal_answers
from benchmarks.random_models import save_owlv2, save_owlvit

Precision = Literal["float32", "bfloat16"]

SLOW_REPEATS = 3
"""Of comparisons in which a call takes ten seconds or more."""

_BOXES = 100


@dataclass(frozen=True)
class Case:
    """A model and a picture.

    Attributes:
        folder: Of the model, written by transformers.
        photo: 640x480.
        name: Of the model, with its size.
    """

    folder: Path
    photo: Path
    name: str

    @classmethod
    def make(cls, scratch: Path, family: Literal["owlvit", "owlv2"]) -> "Case":
        """Writes model and picture if they are not there yet."""
        folder, photo = scratch / family, scratch / "photo.png"
        if not folder.exists():
            save_owlvit(folder) if family == "owlvit" else save_owlv2(folder)
        make_photo(640, 480).save(photo)
        names = {"owlvit": "OWL-ViT B/32, 768 px", "owlv2": "OWLv2 B/16, 960 px"}
        return cls(folder, photo, f"{names[family]}, {len(NAMES)} labels")

    def predictor(self, precision: Precision = "float32") -> owlkit.Predictor:
        """Loads owlkit's side."""
        return owlkit.Predictor.from_pretrained(self.folder, precision=precision)

    def peer(self, predictor: owlkit.Predictor) -> TransformersDetector:
        """Loads the other side, on the device of owlkit's."""
        backend: Any = predictor.backend
        return TransformersDetector(self.folder, NAMES, getattr(backend, "device", "cpu"))

    def detect(self, predictor: owlkit.Predictor, threshold: float) -> Callable[[], int]:
        """What owlkit does, with the labels encoded before."""
        queries = predictor.embed(owlkit.QuerySet.from_text(NAMES))

        def detect() -> int:
            found = predictor.detect(
                str(self.photo), queries, threshold=threshold, one_label_per_box=True
            )
            return len(found)

        return detect

    def threshold(self, predictor: owlkit.Predictor) -> float:
        """Above which there are about as many boxes as a trained model finds."""
        queries = owlkit.QuerySet.from_text(NAMES)
        found = predictor.detect(
            str(self.photo), queries, threshold=0.0, one_label_per_box=True, top_k=_BOXES
        )
        return float(found.scores[-1])


def predict_pipeline(repeats: int, scratch: Path) -> Iterator[Row]:
    """The pipeline of transformers; it encodes the image once for each label."""
    case = Case.make(scratch, "owlvit")
    predictor = case.predictor()
    check_equal_answers(predictor, case.peer(predictor), case.photo, precision="float32")
    threshold, backend = case.threshold(predictor), predictor.backend
    device: Any = getattr(backend, "device", "cpu")
    pipe = transformers.pipeline(
        "zero-shot-object-detection", model=str(case.folder), device=device
    )

    def detect_from_scratch() -> None:
        # A new predictor knows no texts yet, so this pays for the text tower as the peer does.
        owlkit.Predictor(backend).detect(str(case.photo), NAMES, threshold=threshold)

    detect_from_scratch()
    pipe(str(case.photo), candidate_labels=NAMES[:2], threshold=threshold)
    yield compare(
        detect_from_scratch,
        lambda: pipe(str(case.photo), candidate_labels=NAMES, threshold=threshold),
        path="predict-pipeline",
        peer="transformers pipeline zero-shot-object-detection",
        settings=f"{case.name}, float32, texts encoded too",
        repeats=min(repeats, SLOW_REPEATS),
        warm_up=False,
    )


def predict_model(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWL-ViT in float32."""
    case = Case.make(scratch, "owlvit")
    yield _beside_model(case, "predict-model", "float32", repeats)


def predict_model_bf16(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWL-ViT, owlkit's image tower in bfloat16."""
    case = Case.make(scratch, "owlvit")
    yield _beside_model(case, "predict-model-bf16", "bfloat16", repeats)


def predict_owlv2(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWLv2 in float32."""
    case = Case.make(scratch, "owlv2")
    yield _beside_model(case, "predict-owlv2", "float32", min(repeats, SLOW_REPEATS))


def predict_owlv2_bf16(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWLv2, owlkit's image tower in bfloat16."""
    case = Case.make(scratch, "owlv2")
    yield _beside_model(case, "predict-owlv2-bf16", "bfloat16", min(repeats, SLOW_REPEATS))


def predict_tower(repeats: int, scratch: Path) -> Iterator[Row]:
    """What detecting costs beside the image tower alone."""
    case = Case.make(scratch, "owlvit")
    predictor = case.predictor()
    backend: Any = predictor.backend
    pixels = torch.randn(1, 3, *backend.preprocessing.size, device=backend.device)

    @torch.inference_mode()
    def bare_tower() -> None:
        backend.detector.vision.model(pixels)

    yield compare(
        case.detect(predictor, case.threshold(predictor)),
        bare_tower,
        path="predict-tower",
        peer="bare timm image tower",
        settings=f"{case.name} ready, float32",
        repeats=repeats,
        work=tower_work(case.folder, "float32"),
    )


def predict_bf16(repeats: int, scratch: Path) -> Iterator[Row]:
    """The image tower in bfloat16 against itself."""
    case = Case.make(scratch, "owlvit")
    half, full = case.predictor("bfloat16"), case.predictor()
    threshold = case.threshold(full)
    yield compare(
        case.detect(half, threshold),
        case.detect(full, threshold),
        path="predict-bf16",
        peer="owlkit in float32",
        settings=f"{case.name} ready, bfloat16",
        repeats=repeats,
        work=tower_work(case.folder, "bfloat16"),
    )


def predict_compile(repeats: int, scratch: Path) -> Iterator[Row]:
    """The image tower through `torch.compile`; compiling, a minute or more, is not timed."""
    case = Case.make(scratch, "owlvit")
    compiled, eager = case.predictor(), case.predictor()
    threshold = case.threshold(eager)
    backend: Any = compiled.backend
    backend.detector.vision.compile()
    yield compare(
        case.detect(compiled, threshold),
        case.detect(eager, threshold),
        path="predict-compile",
        peer="owlkit in eager torch",
        settings=f"{case.name} ready, float32",
        repeats=repeats,
        work=tower_work(case.folder, "float32"),
    )


def _beside_model(case: Case, path: str, precision: Precision, repeats: int) -> Row:
    """Owlkit in some precision against the transformers model in float32."""
    predictor = case.predictor(precision)
    peer = case.peer(predictor)
    check_equal_answers(predictor, peer, case.photo, precision=precision)
    threshold = case.threshold(predictor)
    return compare(
        case.detect(predictor, threshold),
        lambda: peer.detect(case.photo, threshold),
        path=path,
        peer=f"{peer.NAME}, float32",
        settings=f"{case.name} ready, {precision}, picture to boxes",
        repeats=repeats,
        work=tower_work(case.folder, precision),
    )
