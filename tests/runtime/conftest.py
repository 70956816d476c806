"""One small exported detector for all tests of the runtime."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owlkit import OwlDetector
from owlkit.calibration import Calibration
from owlkit.export.detector import export_detector
from owlkit.torch_backend import TorchBackend

# The second is of another shape, so that height and width cannot be confused.
SIZES = [(64, 64), (48, 96)]


@pytest.fixture(scope="session")
def torch_backend(owlv2_folder: Path) -> TorchBackend:
    """The oracle: an OWLv2 with random weights, a calibration and a threshold."""
    detector = OwlDetector.from_pretrained(owlv2_folder)
    detector.calibration = Calibration.linear(1.5, 0.25)
    detector.threshold = 0.3
    return TorchBackend(detector, device="cpu")


@pytest.fixture(scope="session")
def exported(torch_backend: TorchBackend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That detector as ONNX graphs, of two sizes, with attention maps of the first."""
    folder = tmp_path_factory.mktemp("export") / "owlv2"
    export_detector(torch_backend.detector, folder, sizes=SIZES, attention=True)
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.fixture
def rewrite(copied: Path) -> Callable[..., None]:
    """Changes keys of the copy's ``owlkit.json``."""

    def change(**values: Any) -> None:
        path = copied / "owlkit.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change
