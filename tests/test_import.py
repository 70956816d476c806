"""`import owlkit` is cheap: nothing heavy is loaded before it is needed."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "transformers", "timm", "pydantic", "accelerate", "gradio")


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.split())


def test_importing_owlkit_loads_nothing_heavy() -> None:
    loaded = _loaded_by("import owlkit")
    assert "owlkit" in loaded
    assert sorted(loaded & {*HEAVY, "onnxruntime", "PIL", "numpy", "yaml", "tokenizers"}) == []


@pytest.mark.parametrize("module", ["owlkit.errors", "owlkit.prompts"])
def test_torch_free_modules_load_nothing_heavy(module: str) -> None:
    assert sorted(_loaded_by(f"import {module}") & set(HEAVY)) == []


def test_config_needs_neither_torch_nor_transformers() -> None:
    """A command that only checks or prints a config answers at once."""
    loaded = _loaded_by("import owlkit.config")
    assert "pydantic" in loaded
    assert sorted(loaded & (set(HEAVY) - {"pydantic"})) == []
