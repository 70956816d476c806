"""The programs in `tools/`: their help, and the quickstart's order of work."""

import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.mark.parametrize("path", sorted(TOOLS.glob("*.py")), ids=lambda path: path.stem)
def test_tools_explain_themselves(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    monkeypatch.syspath_prepend(TOOLS)  # as Python does for a program
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_scenes_are_made_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scenes"
    words = ["make_scenes.py", str(out), "--train", "8", "--val", "2", "--tier", "hard"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(TOOLS / "make_scenes.py"), run_name="__main__")
    assert f"{out}: 8 training pictures" in capsys.readouterr().out
    assert len(list((out / "train").iterdir())) == 8
    with pytest.raises(SystemExit, match=r"error: .*scenes: expected a free place"):
        runpy.run_path(str(TOOLS / "make_scenes.py"), run_name="__main__")


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The program, in a folder of its own."""
    spec = importlib.util.spec_from_file_location("quickstart", TOOLS / "quickstart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quickstart", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def commands(
    quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch, *, fails: str = ""
) -> list[list[str]]:
    """Collects command lines instead of running them; each leaves what it is known by."""
    ran: list[list[str]] = []
    metrics = {name: 0.5 for name in ("AP", "AP50", "AP_base", "AP50_base", "AP_novel")}
    metrics["AP50_novel"] = 0.25

    def result(words: list[str]) -> Path:
        name = Path(words[1]).stem
        runs = {word.partition("=")[0]: Path(word.partition("=")[2]) for word in words}
        out = Path(words[words.index("--out") + 1]) if "--out" in words else Path()
        pair = "lit" if words[2].endswith("dino_lit.yaml") else "clip"
        made: dict[str, Callable[[], Path]] = {
            "make_scenes": lambda: Path(words[2]) / "captions_train.jsonl",
            "train_tokenizer": lambda: out / "tokenizer.json",
            "pretrain_dino": lambda: runs["runs"] / "dino" / "best" / "model",
            "pretrain_clip": lambda: runs["runs"] / pair / "best" / "model",
            "train_detector": lambda: runs["runs"] / "detector" / "best" / "model",
            "evaluate_coco": lambda: out / "metrics.json",
            "export_onnx": lambda: Path(words[3]) / "owlkit.json",
        }
        return made[name]()

    def run(words: list[str]) -> int:
        ran.append(words[1:])
        if fails and Path(words[1]).stem == fails:
            return 1
        path = result(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(metrics))
        if Path(words[1]).stem == "pretrain_clip":
            measured = {"kind": "eval", "text_to_image_recall@1": 0.75}
            (path.parents[1] / "metrics.jsonl").write_text(json.dumps(measured) + "\n")
        return 0

    monkeypatch.setattr(quickstart, "run_command", run)
    monkeypatch.setattr(sys, "argv", ["quickstart.py"])
    return ran


def names_of(ran: list[list[str]]) -> list[str]:
    return [Path(words[0]).stem for words in ran]


STAGES = [
    *("make_scenes", "train_tokenizer", "pretrain_clip", "train_detector"),
    *("evaluate_coco", "export_onnx"),
]


def test_quickstart_runs_all_stages_once(
    quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = commands(quickstart, monkeypatch)
    assert quickstart.main() == 0
    assert names_of(ran) == STAGES
    assert "model.init_from=runs/quickstart/clip/best" in ran[3]
    assert ran[5][1:3] == ["runs/quickstart/detector/best", "runs/quickstart/onnx"], "the demo's"
    assert not any("resume=true" in words for words in ran)
    root = Path("runs/quickstart")
    metrics = json.loads((root / "metrics.json").read_text())
    assert (metrics["ap50_base"], metrics["ap50_novel"]) == (0.5, 0.25)
    assert metrics["recall_at_1"] == 0.75
    assert "| 0 | 0.500 |" in (root / "report.md").read_text()
    ran.clear()
    quickstart.main()
    assert ran == [], "what is done is not done again"


def test_quickstart_goes_on_where_it_was_interrupted(
    quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(quickstart, monkeypatch, fails="train_detector")
    with pytest.raises(SystemExit, match="stage_two ended with status 1"):
        quickstart.main()
    state = Path("runs/quickstart/detector/last/training/state.json")
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    clock = Path("runs/quickstart/.seconds.json")
    so_far = json.loads(clock.read_text())
    clock.write_text(json.dumps({**so_far, "unfinished": {"stage_two": 500.0}}))
    ran = commands(quickstart, monkeypatch)
    quickstart.main()
    assert names_of(ran) == STAGES[3:]
    assert ran[0][-1] == "resume=true"
    seconds = json.loads(Path("runs/quickstart/metrics.json").read_text())["seconds"]
    assert 500 <= seconds["stage_two"] < 510, "the attempts add up"
    assert json.loads(clock.read_text())["unfinished"] == {}


def test_quickstart_begins_a_training_without_a_checkpoint_anew(
    quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`owlkit train` would refuse a folder that has a best model and nothing to go on with."""
    commands(quickstart, monkeypatch, fails="train_detector")
    with pytest.raises(SystemExit, match="stage_two ended with status 1"):
        quickstart.main()
    root = Path("runs/quickstart")
    for name in ("best/old", "last/half"):
        (root / "detector" / name).parent.mkdir(parents=True)
        (root / "detector" / name).touch()
    ran = commands(quickstart, monkeypatch)
    quickstart.main()
    assert names_of(ran) == STAGES[3:]
    assert "resume=true" not in ran[0]
    assert [path.name for path in (root / "detector").rglob("*") if path.is_file()] == ["model"]
    assert (root / "clip" / "best" / "model").is_file()
    assert json.loads((root / "metrics.json").read_text())["seconds"]["stage_two"] < 10


PATIENT = """
import pathlib, sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit(130)
"""


def test_quickstart_knows_an_interrupted_training_by_either_signal(
    quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quickstart.py"])
    for status in (130, 143):
        monkeypatch.setattr(quickstart, "run_command", lambda words, status=status: status)
        with pytest.raises(SystemExit) as caught:
            quickstart.main()
        assert caught.value.code == status
        assert capsys.readouterr().err == "scenes was interrupted; the same command goes on\n"


def test_quickstart_lets_what_ctrl_c_interrupts_save(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    words = [sys.executable, "-c", PATIENT, str(saved)]
    program = (
        "import pathlib, quickstart, signal\n"
        # What is started in the background of a shell ignores Ctrl-C until it is told otherwise.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"stage = quickstart.Stage('stage', {words!r}, pathlib.Path('none'))\n"
        "quickstart.run_stages([stage], pathlib.Path('clock.json'))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        pass
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert saved.exists(), "the command had not saved when the quickstart was gone"
    assert said == "stage was interrupted; the same command goes on\n"
    assert json.loads((tmp_path / "clock.json").read_text())["unfinished"]["stage"] >= 1


def test_quickstart_compares_seeds(quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = commands(quickstart, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--seeds", "2"])
    quickstart.main()
    assert names_of(ran) == [*STAGES, *STAGES[2:]], "seeds share scenes and tokenizer"
    assert "seed=1" in ran[6]
    assert "runs=runs/quickstart/seed1" in ran[6]
    report = Path("runs/quickstart/report.md").read_text()
    assert "| mean | 0.500 |" in report
    assert "| spread (max - min) | 0.000 |" in report


def test_quickstart_on_a_dino_backbone(
    quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(quickstart, monkeypatch)
    quickstart.main()
    ran = commands(quickstart, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--backbone", "dino"])
    quickstart.main()
    assert names_of(ran) == [*STAGES[:2], "pretrain_dino", *STAGES[2:]]
    root = Path("runs/quickstart-dino")
    configs = [Path(words[1]).name for words in ran[2:5]]
    assert configs == ["dino.yaml", "dino_lit.yaml", "dino_detector.yaml"]
    starts = [words[-1] for words in ran[3:5]]
    assert starts == [f"model.vision.weights={root}/dino/best", f"model.init_from={root}/lit/best"]
    assert ran[5][1] == str(root / "detector" / "best")
    report = (root / "report.md").read_text()
    assert report.startswith("# Quickstart, easy scenes, DINO backbone")
    assert "For comparison, with the CLIP backbone:" in report
    assert report.count("| 0 | 0.500 |") == 2


def test_quickstart_has_no_hard_scenes_for_dino(
    quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quickstart.py", "--backbone", "dino", "--tier", "hard"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        quickstart.main()
    assert "--backbone dino is there for easy scenes, not hard" in capsys.readouterr().err
