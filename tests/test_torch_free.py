"""Without torch: what needs no training works in a fresh virtual environment, with equal boxes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from owlkit import OwlDetector, Predictor, QuerySet
from owlkit.calibration import Calibration
from owlkit.export.detector import export_detector
from tests import torch_free_job

REPOSITORY = Path(__file__).parents[1]
LARGEST_SITE_PACKAGES = 400e6
# Boxes of the exported model and of torch differ by float32 rounding: 1e-4 of the image's side is
# the tolerance of the export itself.
BOX_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with owlkit's core dependencies alone."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=600)
    words = ("install", "--quiet", "--constraint", REPOSITORY / "constraints.txt", REPOSITORY)
    python = folder / "bin" / "python"
    install = subprocess.run([python, "-m", "pip", *words], capture_output=True, text=True)
    if install.returncode:
        message = f"pip cannot install owlkit: {install.stderr[-2000:]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder / "bin"


@pytest.fixture(scope="module")
def photograph(data_dir: Path) -> Path:
    return data_dir / "samples" / "groceries.jpg"


@pytest.fixture(scope="module")
def models(owlv2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One small calibrated detector, as owlkit saves it and as it exports it."""
    folder = tmp_path_factory.mktemp("models")
    detector = OwlDetector.from_pretrained(owlv2_folder)
    detector.calibration = Calibration.linear(0.7, 0.25)
    detector.threshold = 0.45
    detector.save_pretrained(folder / "torch")
    export_detector(detector, folder / "exported", attention=True)
    return folder / "torch", folder / "exported"


@pytest.fixture(scope="module")
def queries(
    models: tuple[Path, Path], photograph: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A query set with examples, embedded with torch."""
    asked = QuerySet.from_text(["cat", "owl"])
    asked.add_example("thing", photograph, [[120, 60, 295, 290], [385, 205, 565, 455]])
    asked.add_example("thing", photograph, [[575, 75, 745, 315]], negative=True)
    asked.update("owl", threshold=0.3, calibration=Calibration.linear(1.2, -0.1))
    path = tmp_path_factory.mktemp("queries") / "some.queries"
    Predictor.from_pretrained(models[0], device="cpu").embed(asked).save(path)
    return path


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=300
    )


def test_boxes_are_torchs(
    environment: Path,
    models: tuple[Path, Path],
    photograph: Path,
    queries: Path,
    tmp_path: Path,
) -> None:
    """Words, thresholds, a saved set, new examples, tiles and parts; warnings are errors."""
    torch_folder, exported = models
    results = tmp_path / "results.json"
    program = (environment / "python", "-I", "-W", "error", torch_free_job.__file__)
    done = run(*program, exported, photograph, queries, results)
    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text())
    expected = torch_free_job.detect_everything(*map(str, (torch_folder, photograph, queries)))
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert len(one["names"]) > 3, f"{name}: too few boxes to compare"
        assert found[name]["names"] == one["names"], name
        side = np.abs(one["boxes"]).max()
        boxes = found[name]["boxes"]
        np.testing.assert_allclose(boxes, one["boxes"], atol=BOX_TOLERANCE * side, err_msg=name)
        np.testing.assert_allclose(found[name]["scores"], one["scores"], atol=1e-4, err_msg=name)


def test_attention_is_torchs(
    environment: Path, models: tuple[Path, Path], photograph: Path, tmp_path: Path
) -> None:
    torch_folder, exported = models
    program = (
        "import sys, numpy, owlkit; _, model, image, out = sys.argv;"
        "predictor = owlkit.Predictor.from_pretrained(model, device='cpu');"
        "numpy.save(out, predictor.attention(image).on_image(smooth=True))"
    )
    python = (environment / "python", "-I", "-W", "error", "-c", program)
    done = run(*python, exported, photograph, tmp_path / "map.npy")
    assert done.returncode == 0, done.stderr
    expected = Predictor.from_pretrained(torch_folder, device="cpu").attention(photograph)
    np.testing.assert_allclose(
        np.load(tmp_path / "map.npy"), expected.on_image(smooth=True), atol=1e-6
    )


def test_the_command_line_works(
    environment: Path, models: tuple[Path, Path], photograph: Path, queries: Path, tmp_path: Path
) -> None:
    torch_folder, exported = models
    owlkit = environment / "owlkit"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "photograph.jpg").write_bytes(photograph.read_bytes())
    model = ("--model", exported, "--providers", "cpu", "--threads", 1)
    for words in (
        ("detect", photograph, "--queries", queries, "--out", tmp_path / "found", *model),
        ("annotate", pictures, "--queries", "cat, red mug", "--out", tmp_path / "labels", *model),
        ("find", pictures, "--queries", "cat", "--out", tmp_path / "sheet.jpg", *model),
    ):
        done = run(owlkit, *words)
        assert done.returncode == 0, (words, done.stderr)
    expected = Predictor.from_pretrained(torch_folder, device="cpu").detect(
        photograph, QuerySet.load(queries)
    )
    found = json.loads((tmp_path / "found" / "detections.json").read_text())[str(photograph)]
    assert [one["label"] for one in found] == [one["label"] for one in expected.to_list()]
    assert (tmp_path / "labels" / "annotations.json").is_file()
    assert (tmp_path / "sheet.jpg").is_file()


def test_what_needs_torch_says_so(
    environment: Path, models: tuple[Path, Path], photograph: Path, tmp_path: Path
) -> None:
    words = ("detect", photograph, "--queries", "cat", "--out", tmp_path / "found")
    done = run(environment / "owlkit", *words, "--model", models[0])
    assert done.returncode == 1
    assert "running a PyTorch model needs torch: pip install 'owlkit[torch]'" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(environment / "owlkit", *words, "--model", models[1], "--precision", "float16")
    assert done.returncode == 1
    assert "precision: expected none, because" in done.stderr


def test_the_environment_is_small(environment: Path) -> None:
    sizes = [path.lstat().st_size for path in environment.parent.glob("lib/**/*")]
    assert sum(sizes) < LARGEST_SITE_PACKAGES
