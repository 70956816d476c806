"""owlkit's own model folder."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from owlkit import DualEncoder, OwlDetector
from owlkit.errors import CheckpointError
from owlkit.models import checkpoint
from tests.encoders.test_hf_vision import copy_as_model_folder


@pytest.fixture
def detector(owlv2_folder: Path) -> OwlDetector:
    return OwlDetector.from_pretrained(owlv2_folder)


@torch.no_grad()
def test_a_detector_comes_back_equal(detector: OwlDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "model")
    back = OwlDetector.from_pretrained(tmp_path / "model")
    assert back.state_dict().keys() == detector.state_dict().keys()
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in detector.state_dict().items())
    assert back.architecture == detector.architecture
    assert back.preprocessing == detector.preprocessing
    texts = ["a cat", "a remote control", "a cat"]
    assert torch.equal(back.encode_strings(texts), detector.encode_strings(texts))
    assert not back.training


@pytest.mark.parametrize("name", ["clip_gelu_eos", "siglip"])
@torch.no_grad()
def test_a_dual_encoder_comes_back_equal(
    golden: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    model = DualEncoder.from_pretrained(
        copy_as_model_folder(golden("03_towers") / name, tmp_path / "hf")
    )
    model.save_pretrained(tmp_path / "own")
    back = DualEncoder.from_pretrained(tmp_path / "own")
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())
    assert (back.architecture, back.preprocessing) == (model.architecture, model.preprocessing)


def test_convention_can_be_changed_on_loading(detector: OwlDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path)
    scenic = OwlDetector.from_pretrained(tmp_path, "scenic")
    assert scenic.convention.name == "scenic"
    assert scenic.merge_norm.eps == 1e-6
    assert scenic.box_head.gelu == "tanh"
    assert scenic.vision.positions == "crop"
    assert scenic.preprocessing.pad_value == 0.5
    assert OwlDetector.from_pretrained(tmp_path).preprocessing.pad_value == 0.0


def test_saving_replaces_a_model_but_nothing_else(detector: OwlDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "stale.txt").write_text("of the old model")
    detector.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "stale.txt").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("precious")
    with pytest.raises(CheckpointError, match=r"holds files but no owlkit\.json"):
        detector.save_pretrained(tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "precious"


def test_a_failed_save_leaves_the_old_model_and_no_litter(
    detector: OwlDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector.save_pretrained(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "_model_card", full_disk)
    with pytest.raises(OSError, match="No space"):
        detector.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def _edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "owlkit.json").read_text())
    (folder / "owlkit.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "expected 1 to 1, found 2; a newer owlkit"),
        ({"format_version": None}, "found None"),
        ({"kind": "dual_encoder"}, "expected 'detector', found 'dual_encoder'"),
        ({"preprocessing": {"size": [64, 64], "fit": "pda"}}, "pda"),
        ({"architecture": {"vision": {"name": "vit"}, "text": {}, "convention": {}}}, "convention"),
    ],
)
def test_manifests_that_cannot_be_used(
    detector: OwlDetector, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    detector.save_pretrained(tmp_path)
    _edit_manifest(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        OwlDetector.from_pretrained(tmp_path)


def test_damaged_files_are_named(detector: OwlDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="weights are damaged"):
        OwlDetector.from_pretrained(tmp_path)
    (tmp_path / "owlkit.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"owlkit\.json: not readable as JSON"):
        OwlDetector.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("./nowhere", "no such folder"),
        ("nobody/such-model", "the hub did not give a model"),
        ("just-a-name", "not a hub id"),
    ],
)
def test_models_that_do_not_exist(place: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        OwlDetector.from_pretrained(place)


def test_other_models_are_told_apart(golden: Callable[[str], Path], tmp_path: Path) -> None:
    clip = copy_as_model_folder(golden("03_towers") / "clip_gelu_eos", tmp_path)
    with pytest.raises(CheckpointError, match="found model_type 'clip'"):
        OwlDetector.from_pretrained(clip)


def test_a_hub_id_is_found_in_the_cache(
    detector: OwlDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout that the hub's own client keeps on disk, read without network."""
    from huggingface_hub import constants

    repository = tmp_path / "models--somebody--mugs"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    detector.save_pretrained(repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    back = OwlDetector.from_pretrained("somebody/mugs")
    assert torch.equal(back.merge_norm.weight, detector.merge_norm.weight)


def test_push_uploads_a_complete_folder_in_one_commit(
    detector: OwlDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: dict[str, set[str]] = {}

    class Hub:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
            assert private
            assert exist_ok
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> Any:
            files = (path for path in folder_path.rglob("*") if path.is_file())
            uploaded[repo_id] = {str(path.relative_to(folder_path)) for path in files}
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    monkeypatch.setattr(checkpoint, "HfApi", Hub)
    address = detector.push_to_hub("me/mugs", private=True)
    assert address == "https://hub/me/mugs/commit/1"
    assert {"owlkit.json", "model.safetensors", "README.md", "text/config.json"} <= uploaded[
        "me/mugs"
    ]
