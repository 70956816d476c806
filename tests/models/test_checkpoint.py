"""owlkit's own model folder."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from owlkit import DualEncoder, OwlDetector
from owlkit.calibration import Calibration
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


@pytest.mark.parametrize(
    "calibration",
    [None, Calibration.linear(0.5, -1.0), Calibration.isotonic([-2.0, 1.5], [0.25, 0.75])],
)
@pytest.mark.parametrize("threshold", [None, 0.375])
def test_what_was_measured_of_scores_comes_back(
    detector: OwlDetector, tmp_path: Path, calibration: Calibration | None, threshold: float | None
) -> None:
    detector.calibration, detector.threshold = calibration, threshold
    detector.save_pretrained(tmp_path)
    back = OwlDetector.from_pretrained(tmp_path)
    assert (back.calibration, back.threshold) == (calibration, threshold)
    manifest = json.loads((tmp_path / "owlkit.json").read_text())
    assert ("calibration" in manifest) == (calibration is not None)
    assert ("threshold" in manifest) == (threshold is not None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, r"owlkit\.json: threshold: expected a number in \[0, 1\], found 1\.5"),
        ({"threshold": True}, "found True"),
        ({"threshold": "0.5"}, "found '0.5'"),
        ({"calibration": {"kind": "spline"}}, r"owlkit\.json: calibration: .* found 'spline'"),
        ({"calibration": 0.5}, "expected a calibration as an object, found 0.5"),
    ],
)
def test_what_cannot_be_of_scores_is_named(
    detector: OwlDetector, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    detector.save_pretrained(tmp_path)
    path = tmp_path / "owlkit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        OwlDetector.from_pretrained(tmp_path)


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


def test_an_interrupted_swap_brings_the_old_model_back(
    detector: OwlDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to delete both: the old folder had been moved aside, and that place was cleared."""
    detector.save_pretrained(tmp_path / "model")
    rename, calls = os.replace, []

    def interrupted(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detector.save_pretrained(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    OwlDetector.from_pretrained(tmp_path / "model")


def test_links_are_followed_and_kept(detector: OwlDetector, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "best").symlink_to(tmp_path / "disk")
    for _ in range(2):
        detector.save_pretrained(tmp_path / "best")
    assert (tmp_path / "best").is_symlink()
    assert (tmp_path / "disk" / "owlkit.json").is_file()


def test_the_current_folder_can_be_saved_to(
    detector: OwlDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    detector.save_pretrained(".")
    assert (tmp_path / "owlkit.json").is_file()


def test_compiled_parts_are_saved_under_their_own_names(
    detector: OwlDetector, tmp_path: Path
) -> None:
    compiled = copy.deepcopy(detector)
    compiled.vision = torch.compile(compiled.vision)  # type: ignore[assignment]
    checkpoint.save_folder(tmp_path / "model", kind="detector", model=compiled)
    back = OwlDetector.from_pretrained(tmp_path / "model")
    assert torch.equal(back.vision.model.pos_embed, detector.vision.model.pos_embed)


def test_own_choices_survive_another_convention(detector: OwlDetector, tmp_path: Path) -> None:
    detector.preprocessing = replace(detector.preprocessing, fit="squash")
    detector.vision.positions = "bilinear_aligned"
    detector.save_pretrained(tmp_path)
    scenic = OwlDetector.from_pretrained(tmp_path, "scenic")
    assert scenic.preprocessing == detector.preprocessing
    assert scenic.vision.positions == "bilinear_aligned"


def _edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "owlkit.json").read_text())
    (folder / "owlkit.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "expected 1 to 1, found 2; a newer owlkit"),
        ({"format_version": None}, "found None"),
        ({"format_version": True}, "found True"),
        ({"architecture": {}}, "'convention'"),
        ({"architecture": []}, "expected an object"),
        ({"kind": "dual_encoder"}, "expected detector, found 'dual_encoder'"),
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


@pytest.mark.parametrize(("key", "value"), [("head_gelu", "exact"), ("size_bias", "hieght")])
def test_unknown_conventions_in_a_manifest(
    detector: OwlDetector, tmp_path: Path, key: str, value: str
) -> None:
    detector.save_pretrained(tmp_path)
    architecture = detector.architecture
    architecture["convention"][key] = value
    _edit_manifest(tmp_path, architecture=architecture)
    with pytest.raises(CheckpointError, match=f"{key}: expected one of .* found '{value}'"):
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


def test_saved_files_have_the_usual_permissions(detector: OwlDetector, tmp_path: Path) -> None:
    """safetensors writes files that only their owner can read; a shared model must be readable."""
    detector.save_pretrained(tmp_path / "model")
    usual = tmp_path / "usual"
    usual.touch()
    modes = {path.stat().st_mode for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert modes == {usual.stat().st_mode}
