"""`import owlkit` is cheap, and what needs no torch works where torch is not installed."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.test_import_layers import TORCH_FREE, TORCH_FREE_AT_IMPORT

HEAVY = ("torch", "torchvision", "transformers", "timm", "pydantic", "accelerate", "gradio")
TORCH_EXTRA = ("torch", "torchvision", "transformers", "timm", "pydantic", "yaml")
# An import of a name that stands for None fails as if the package were not installed.
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({TORCH_EXTRA!r}))"

MODULES = sorted(name for name in TORCH_FREE | TORCH_FREE_AT_IMPORT if find_spec(f"owlkit.{name}"))


def _run(*lines: str) -> str:
    """What a fresh interpreter prints."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def _loaded_by(statement: str) -> set[str]:
    return set(_run("import sys", statement, "print(*sys.modules)").splitlines()[-1].split())


def test_importing_owlkit_loads_nothing_heavy() -> None:
    loaded = _loaded_by("import owlkit")
    assert "owlkit" in loaded
    assert sorted(loaded & {*HEAVY, "onnxruntime", "PIL", "numpy", "yaml", "tokenizers"}) == []


def test_torch_free_modules_load_nothing_heavy() -> None:
    modules = ", ".join(f"owlkit.{name}" for name in MODULES)
    assert sorted(_loaded_by(f"import {modules}") & set(HEAVY)) == []


def test_config_needs_neither_torch_nor_transformers() -> None:
    """A command that only checks or prints a config answers at once."""
    loaded = _loaded_by("import owlkit.config")
    assert "pydantic" in loaded
    assert sorted(loaded & (set(HEAVY) - {"pydantic"})) == []


@pytest.mark.parametrize("option", ["--list-fields", "--print-config"])
def test_showing_a_config_loads_no_torch(option: str) -> None:
    config = Path(__file__).parents[1] / "configs" / "owl_tiny.yaml"
    words = ["make-detector", option, str(config)]
    loaded = _loaded_by(f"from owlkit.cli import main; assert main({words!r}) == 0")
    assert sorted(loaded & (set(HEAVY) - {"pydantic"})) == []


def test_what_needs_no_torch_works_without_it() -> None:
    printed = _run(
        BLOCKED,
        *(f"import owlkit.{name}" for name in MODULES),
        "import numpy as np, owlkit",
        "found = owlkit.postprocess.postprocess(",
        "    np.ones((1, 1)), np.array([[5, 5, 20, 20]]), names=['cat'], image_size=(30, 40)",
        ")",
        "queries = owlkit.QuerySet.from_text(['cat'])",
        "drawn = owlkit.visualize.draw_detections(np.zeros((30, 40, 3), np.uint8), found)",
        "print(len(found), queries.names, drawn.size, owlkit.images.load_image(drawn).shape)",
    )
    assert printed == "1 ('cat',) (40, 30) (30, 40, 3)\n"


@pytest.mark.parametrize(
    "statement",
    [
        "owlkit.Predictor.from_pretrained('folder')",
        "owlkit.OwlDetector",
        "owlkit.DualEncoder",
        "owlkit.ops",
        "owlkit.encoders",
        "owlkit.config",
        "from owlkit import OwlDetector",
    ],
)
def test_what_needs_torch_says_how_to_install_it(statement: str) -> None:
    printed = _run(
        BLOCKED,
        "import owlkit",
        "try:",
        f"    {statement}",
        "except owlkit.errors.MissingDependencyError as error:",
        "    print(error)",
    )
    assert "pip install 'owlkit[torch]'" in printed


@pytest.mark.parametrize("name", ["engine", "evaluation", "losses"])
def test_what_needs_the_training_extra_says_so(name: str) -> None:
    printed = _run(
        BLOCKED,
        "import owlkit",
        "try:",
        f"    owlkit.{name}",
        "except owlkit.errors.MissingDependencyError as error:",
        "    print(error)",
    )
    assert "pip install 'owlkit[train]'" in printed


@pytest.mark.parametrize(
    ("command", "extra"),
    [("detect", "torch"), ("make-detector", "torch"), ("train", "train")],
)
def test_commands_say_what_to_install(command: str, extra: str) -> None:
    words = {
        "detect": ["detect", "a.jpg", "--queries", "cat", "--model", "folder", "--out", "absent"],
        "make-detector": ["make-detector", "--list-fields"],
        "train": ["train", "--list-fields"],
    }[command]
    printed = _run(
        BLOCKED,
        "sys.stderr = sys.stdout",
        "from owlkit.cli import main",
        f"assert main({words!r}) == 1",
    )
    assert printed.startswith("error: ")
    assert f"pip install 'owlkit[{extra}]'" in printed
    assert printed.count("\n") == 1


def test_what_is_listed_can_be_used() -> None:
    look = (
        "import inspect, owlkit",
        "members = dict(inspect.getmembers(owlkit))",
        "namespace = {}",
        "exec('from owlkit import *', namespace)",
        "assert set(owlkit.__all__) <= set(members) and set(owlkit.__all__) <= set(namespace)",
        "print(*owlkit.__all__)",
    )
    everything, without_torch = (set(_run(*lines).split()) for lines in (look, (BLOCKED, *look)))
    classes = {"DualEncoder", "ImageBackbone", "OwlDetector"}
    modules = {"config", "encoders", "engine", "evaluation", "losses", "ops"}
    assert everything - without_torch == classes | modules
    assert {"Predictor", "Detections", "visualize", "geometry", "images"} <= without_torch
