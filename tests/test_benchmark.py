"""The benchmark measures what it says: medians of pairs, memory, equal numbers on all sides."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from owlkit import Predictor

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture
def small_owlvit(tmp_path):
    """Stands in a scratch folder where the comparisons look for their own model."""
    from benchmarks.random_models import SMALL_TOWER, save_owlvit

    small = {**SMALL_TOWER, "num_hidden_layers": 2}
    vision = {**small, "image_size": 64, "patch_size": 8}
    save_owlvit(tmp_path / "owlvit", text_config=small, vision_config=vision, projection_dim=128)
    return tmp_path / "owlvit"


def test_ratio_is_the_median_of_the_pairs_own_ratios(capsys):
    from benchmarks.comparison import summarise

    row = summarise([(1.0, 2.0), (2.0, 2.0), (1.0, 4.0)], path="p", peer="q", settings="s")
    assert (row.ratio, row.owlkit_s, row.peer_s, row.spread) == (2.0, 1.0, 2.0, 1.5)
    assert "| p | s | q | 2.00 |  | 1.000 | 2.000 | 150% |  |" in capsys.readouterr().out


def test_calls_alternate_and_a_watcher_gets_owlkits_side(capsys):
    from benchmarks.comparison import compare, watching

    calls, watched = [], []
    with watching(lambda path, function: watched.append((path, function))):
        ours, theirs = (partial(calls.append, side) for side in ("ours", "theirs"))
        row = compare(ours, theirs, path="p", peer="q", settings="s", repeats=2)
    assert calls == ["ours", "theirs"] * 3
    assert watched == [("p", ours)]
    if not torch.cuda.is_available():
        assert row.gpu_mib is None


def test_json_has_the_same_keys_for_every_row_and_markdown_the_goals(tmp_path):
    from benchmarks.table import write_json, write_markdown

    records = [
        {"path": "oneshot", "peer": "q", "ratio": 2.0, "settings": "s", "owlkit_s": 1.0},
        {"path": "memory", "ratio": 3.0, "settings": "t", "kept_mib": 25.25, "floor_s": None},
    ]
    write_json(records, tmp_path / "rows.json")
    one, two = json.loads((tmp_path / "rows.json").read_text())
    seven = ["path", "peer", "ratio", "owlkit_s", "peer_s", "spread", "settings"]
    assert list(one) == seven
    assert list(two) == [*seven, "kept_mib", "floor_s"]
    assert two["owlkit_s"] is None
    write_markdown("a machine", records, ["profiles"], tmp_path / "rows.md")
    machine, table, notes = (tmp_path / "rows.md").read_text().split("\n\n")
    assert (machine, notes) == ("a machine", "profiles\n")
    assert table.splitlines()[2] == "| oneshot | s | q | 2.00 | 1.8 | 1.000 |  |  |  |"
    assert table.splitlines()[3] == "| memory | t |  | 3.00 |  |  |  |  | kept_mib 25.2 |"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.json", "rows.md"]


def test_groups_and_paths_are_found_once_each():
    from benchmarks.goals import GOALS
    from benchmarks.paths import GROUPS, PATHS, chosen_paths

    assert chosen_paths(["onnx-int8", "export", "query"]) == [
        *("onnx-int8", "onnx-fp32", "predict-onnx", "coldstart", "query")
    ]
    assert chosen_paths(["all"]) == list(PATHS)
    assert PATHS.keys() >= GOALS.keys()
    assert len(PATHS) == sum(map(len, GROUPS.values()))  # no name in two groups
    for where in PATHS.values():
        module, function = where.split(":")
        assert f"def {function}(" in (TOOLS / "benchmarks" / f"{module}.py").read_text()


def test_floor_counts_the_products_of_a_tower(tmp_path):
    from benchmarks.floor import Rates, Work, tower_work
    from benchmarks.random_models import SMALL_TOWER, save_owlvit

    layers, width, side, patch = 2, 128, 64, 8
    small = {**SMALL_TOWER, "num_hidden_layers": layers}
    vision = {**small, "image_size": side, "patch_size": patch}
    save_owlvit(tmp_path, text_config=small, vision_config=vision, projection_dim=16)
    patches = (side // patch) ** 2
    tokens = patches + 1
    linear = tokens * width * (4 * width + 2 * 512)  # q, k, v, output, MLP
    attention = 2 * tokens**2 * width
    products = patches * 3 * patch**2 * width + layers * (linear + attention)
    work = tower_work(tmp_path, "bfloat16")
    assert work.gflop == pytest.approx(2 * products / 1e9, rel=1e-9)
    rates = Rates(gflops={"float32": 100.0, "bfloat16": 400.0}, gib_s=2.0)
    assert rates.seconds(Work(gflop=200, mib=1, precision="float32")) == 2.0
    assert rates.seconds(Work(gflop=200, mib=2048, precision="bfloat16")) == 1.0


def test_profile_names_what_takes_the_time():
    from benchmarks.profile import profile_tables

    matrix = torch.ones(300, 300)

    def multiply():
        return matrix @ matrix

    operations, functions = profile_tables("path", multiply).split("\n\n`path` by ")
    assert operations.startswith("`path` by operation:")
    assert "| aten::mm |" in operations
    assert functions.startswith("function of Python:")
    assert " multiply | " in functions


def test_different_answers_stop_a_comparison(small_owlvit, tmp_path):
    from benchmarks.inputs import make_photo
    from benchmarks.peers import TransformersDetector, check_equal_answers

    photo = tmp_path / "photo.png"
    make_photo(64, 48).save(photo)
    predictor = Predictor.from_pretrained(small_owlvit, device="cpu")
    peer = TransformersDetector(small_owlvit, ["cat", "dog"], "cpu")
    check_equal_answers(predictor, peer, photo, precision="float32")
    with torch.no_grad():
        peer.model.class_head.logit_shift.bias += 0.1
    with pytest.raises(RuntimeError, match="logits: expected equal answers within"):
        check_equal_answers(predictor, peer, photo, precision="float32")


def test_meter_sees_what_lives_at_once():
    from benchmarks.memory import MemoryMeter

    with MemoryMeter() as meter:
        kept = torch.ones(1000) + 1  # two at once
        small = (torch.ones(10) + kept[:10]).sum()
    assert meter.largest == 1000
    assert meter.peak == 2 * kept.nbytes
    assert meter.held == kept.nbytes + small.nbytes


def test_evaluation_problem_is_the_same_to_all(monkeypatch, tmp_path, capsys):
    import benchmarks.evaluate as subject

    for name, value in {"IMAGES": 60, "OBJECTS": 400, "DETECTIONS": 2000}.items():
        monkeypatch.setattr(subject, name, value)
    rows = list(subject.evaluate(1, tmp_path))  # raises where any of the 12 numbers differs
    assert [row.path for row in rows] == ["evaluate", "evaluate-faster"]
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2000


def test_both_dino_steps_learn_the_same(monkeypatch):
    import benchmarks.selfsup as subject

    sizes = {"NAME": "vit_tiny_patch16_224", "PROTOTYPES": 64, "GLOBAL": 64, "LOCAL": 32}
    for name, value in sizes.items():
        monkeypatch.setattr(subject, name, value)
    losses = []
    for step in (subject.OwlkitStep, subject.OriginalStep):
        one = step(subject.make_parts(), subject.make_batch(), precision="float32")
        torch.manual_seed(0)  # of the paths that are dropped
        losses.append([one() for _ in range(3)])
    # Apart from the first step, so do optimiser, clipping, teacher and center.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != pytest.approx(losses[0][2], rel=1e-4)


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("predict-model", ["predict-model"]),
        ("oneshot", ["oneshot"]),
        ("onnx-int8", ["onnx-int8"]),
        ("predict-onnx", ["predict-onnx", "predict-onnx-torch"]),
    ],
)
def test_comparison_runs_and_both_sides_agree(path, rows, small_owlvit, capsys):
    """Each checks the answers of its peer; the model here is a small one."""
    from benchmarks.paths import find_comparison

    found = list(find_comparison(path)(1, small_owlvit.parent))
    assert [row.path for row in found] == rows
    assert all(row.ratio > 0 and row.owlkit_s > 0 for row in found)
