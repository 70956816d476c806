"""`owlkit train`, `pretrain` and `pretrain-dino`: what they refuse and what they say."""

import json
from pathlib import Path

import pytest

from owlkit.cli import main
from tests.small_run import CONFIGS, SmallData, lines_of


def run_of(words: list[str]) -> int:
    return main(["train", *words])


def test_a_run_that_exists_is_kept(
    data: SmallData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = data.training(tmp_path, *data.random_towers, "train.steps=2")
    assert run_of(words) == 0
    run = tmp_path / "owl_tiny"
    assert "finished after step 2, best " in capsys.readouterr().out
    before = (run / "metrics.jsonl").read_bytes()
    assert run_of(words) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"error: {run}: there is such a run; go on with resume=true, or choose another name=..."
    )
    assert (run / "metrics.jsonl").read_bytes() == before
    assert run_of([*words, "name=other", "resume=true"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    last = tmp_path / "other" / "last"
    assert said == (
        f"error: resume: expected a checkpoint in {last}, found none: nothing was saved there; "
        "leave out resume=true to begin anew"
    )


def test_a_run_that_was_killed_early_begins_anew(data: SmallData, tmp_path: Path) -> None:
    """Before its first checkpoint there is nothing to go on with; its log is not mixed in."""
    run = tmp_path / "owl_tiny"
    run.mkdir()
    old = {"step": 1, "kind": "train", "time": 0.0, "loss": 99.0}
    (run / "metrics.jsonl").write_text(json.dumps(old) + '\n{"step": 2, "ki')
    assert run_of(data.training(tmp_path, *data.random_towers, "train.steps=2")) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"]) for line in lines] == [
        (1, "train"),
        (2, "train"),
        (2, "eval"),
    ]
    assert lines[0]["loss"] != 99.0


def test_the_configuration_that_was_used_gives_the_run_again(
    data: SmallData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = data.training(tmp_path, *data.random_towers, "train.steps=2", "seed=3")
    assert run_of(words) == 0
    assert main(["train", *words, "--print-config"]) == 0
    assert capsys.readouterr().out.endswith((tmp_path / "owl_tiny/config.yaml").read_text())
    assert run_of([str(tmp_path / "owl_tiny/config.yaml"), "name=again"]) == 0
    first, again = (lines_of(tmp_path / name, "train")[2] for name in ("owl_tiny", "again"))
    assert first["loss"] == again["loss"]


@pytest.mark.parametrize("command", ["train", "pretrain", "pretrain-dino"])
def test_keys_are_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--list-fields"]) == 0
    said = capsys.readouterr().out
    assert "optim.lr" in said
    assert ("data.train.captions" in said) == (command != "train")
    assert ("loss.dino.out_dim" in said) == (command == "pretrain-dino")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["seed=1"],
            "expected one configuration file and key=value words, found []\n"
            "usage: owlkit train CONFIG [key=value ...]\n",
        ),
        (["a.yaml", "b.yaml"], "found ['a.yaml', 'b.yaml']"),
        (["none.yaml"], "none.yaml: no such file"),
        ([str(CONFIGS / "owl_tiny.yaml"), "train.stps=3"], "did you mean"),
        (
            [str(CONFIGS / "owl_tiny.yaml"), "data.train.annotations=$OWLKIT_TEST_UNSET/a.json"],
            "data.train.annotations: $OWLKIT_TEST_UNSET/a.json names an environment variable "
            "that is not set",
        ),
        (
            [
                *(str(CONFIGS / "owl_tiny.yaml"), "data.train.annotations=/none/a.json"),
                "data.train.images=/none",
            ],
            "expected boxes in COCO's or LVIS's JSON at /none/a.json (data.train.annotations), "
            "found no such file",
        ),
    ],
    ids=["no file", "two files", "missing file", "unknown key", "unset variable", "no data"],
)
def test_mistakes_give_one_message(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, f"runs={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert list(tmp_path.iterdir()) == [], "nothing is begun"
