"""When a run may begin or go on."""

from pathlib import Path

import pytest

from owlkit.build.runs import input_side, run_folder
from owlkit.config import DetectorConfig
from owlkit.errors import ConfigError
from owlkit.geometry import owlvit_preprocessing


def config_of(runs: Path, *, resume: bool = False, name: str | None = "mine") -> DetectorConfig:
    return DetectorConfig(runs=str(runs), name=name, resume=resume)


def make_checkpoint(folder: Path) -> None:
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "state.json").write_text("{}")


def test_a_run_begins_where_there_is_none(tmp_path: Path) -> None:
    assert run_folder(config_of(tmp_path)) == tmp_path / "mine"
    # One that was killed before it had anything to keep may begin again.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.jsonl").touch()
    assert run_folder(config_of(tmp_path)) == tmp_path / "mine"
    with pytest.raises(ConfigError, match="name: expected a name"):
        run_folder(config_of(tmp_path, name=None))


# A run that is killed between two renames leaves its checkpoint in a folder beside.
@pytest.mark.parametrize("place", ["last", ".last-abc/new", ".last-abc/old"])
def test_a_run_with_a_checkpoint_goes_on_only_if_told(tmp_path: Path, place: str) -> None:
    make_checkpoint(tmp_path / "mine" / place)
    assert run_folder(config_of(tmp_path, resume=True)) == tmp_path / "mine"
    with pytest.raises(ConfigError, match=r"mine: there is such a run; go on with resume=true"):
        run_folder(config_of(tmp_path))


def test_nothing_to_go_on_with(tmp_path: Path) -> None:
    (tmp_path / "mine" / "best").mkdir(parents=True)
    (tmp_path / "mine" / ".last-abc" / "new").mkdir(parents=True)  # was never finished
    with pytest.raises(ConfigError, match=r"last, found none: .*leave out resume=true"):
        run_folder(config_of(tmp_path, resume=True))
    # Its best model is not overwritten, and resuming is not advised.
    with pytest.raises(ConfigError, match=r"there is such a run; choose another name"):
        run_folder(config_of(tmp_path))


def test_training_is_on_squares() -> None:
    assert input_side(owlvit_preprocessing(96)) == 96
    with pytest.raises(ConfigError, match=r"^model\.vision\.image_size: .*, found 32x48"):
        input_side(owlvit_preprocessing((32, 48)))
