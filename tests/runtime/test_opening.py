"""``Predictor.from_pretrained`` on an exported folder."""

from pathlib import Path
from typing import Any

import pytest

from owlkit import Predictor
from owlkit.errors import CheckpointError, ConfigError
from owlkit.runtime import OnnxBackend
from owlkit.scene_cache import SceneCache


def test_an_exported_folder_is_opened_without_torch_code(exported: Path) -> None:
    cache = SceneCache(memory=2)
    predictor = Predictor.from_pretrained(
        str(exported), providers=["cpu"], threads=1, batch_size=3, cache=cache
    )
    assert isinstance(predictor.backend, OnnxBackend)
    assert predictor.backend.providers == ("CPUExecutionProvider",)
    assert (predictor.batch_size, predictor.cache) == (3, cache)
    assert isinstance(Predictor.from_pretrained(exported, device="cpu").backend, OnnxBackend)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "precision: expected none, because .* found 'float16'"),
        ({"convention": "hf"}, "convention: expected none, because .* found 'hf'"),
        ({"device": "cpu", "providers": ["cpu"]}, "a device or providers, found both: 'cpu' and"),
        ({"device": "cuda:7"}, "providers: expected one of this installation of onnxruntime"),
    ],
)
def test_options_of_torch_are_refused(
    exported: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Predictor.from_pretrained(exported, **options)


@pytest.mark.parametrize("options", [{"providers": ["cpu"]}, {"threads": 2}])
def test_options_of_the_runtime_are_refused_for_torch(
    owlv2_folder: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="expected with a folder that owlkit export has written"):
        Predictor.from_pretrained(owlv2_folder, **options)


def test_a_damaged_export_is_no_torch_model(copied: Path) -> None:
    (copied / "owlkit.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"owlkit\.json: not readable as JSON"):
        Predictor.from_pretrained(copied)
