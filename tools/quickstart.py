"""The whole life of a small detector on synthetic scenes: ``make quickstart``.

Runs the ordinary commands one after another - scenes, tokenizer, contrastive pretraining, detector
training on the base pairs, evaluation on all pairs, pictures, export - and writes ``report.md``
and ``metrics.json``. With ``--backbone dino`` the image tower learns from the pictures alone and is
locked while a text tower learns to describe what it sees; the report shows the numbers of the other
quickstart beside its own, if that has been run. A step that is done is not done again; an
interrupted training goes on.
"""

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).parent
CONFIGS = TOOLS.parent / "configs" / "quickstart"
# What shells report for a command that Ctrl-C or SIGTERM ended.
INTERRUPTED = (130, 143)
PICTURES = 12


@dataclass(frozen=True)
class Training:
    """One training of the chain.

    Attributes:
        stage: What the report calls it.
        tool: Its program.
        config: Its configuration.
        run: The name that the configuration gives the run.
        start: The key that names the best model of the training before; None for the first.
    """

    stage: str
    tool: str
    config: str
    run: str
    start: str | None = None


@dataclass(frozen=True)
class Variant:
    """Which scenes, and how the towers and the detector learn.

    Attributes:
        folder: Of its runs.
        tier: Of the scenes.
        context_length: Longest caption in tokens.
        trainings: In their order: towers, the last of which learn captions, then the detector.
    """

    folder: Path
    tier: str
    context_length: int
    trainings: tuple[Training, ...]


VARIANTS = {
    ("clip", "easy"): Variant(
        *(Path("runs/quickstart"), "easy", 32),
        trainings=(
            Training("stage_one", "pretrain_clip", "clip", "clip"),
            Training("stage_two", "train_detector", "detector", "detector", "model.init_from"),
        ),
    ),
    ("clip", "hard"): Variant(
        *(Path("runs/quickstart-hard"), "hard", 64),
        trainings=(
            Training("stage_one", "pretrain_clip", "hard_clip", "clip"),
            Training("stage_two", "train_detector", "hard_detector", "detector", "model.init_from"),
        ),
    ),
    ("dino", "easy"): Variant(
        *(Path("runs/quickstart-dino"), "easy", 32),
        trainings=(
            Training("backbone", "pretrain_dino", "dino", "dino"),
            Training("stage_one", "pretrain_clip", "dino_lit", "lit", "model.vision.weights"),
            Training("stage_two", "train_detector", "dino_detector", "detector", "model.init_from"),
        ),
    ),
}


@dataclass(frozen=True)
class Stage:
    """One command, and the file or folder that shows that it has been done.

    Trainings also name their folder; one that was interrupted goes on.
    """

    name: str
    words: Sequence[str | Path]
    result: Path
    training: Path | None = None


def tool(name: str, *words: str | Path) -> list[str | Path]:
    """The command line of one of this repository's tools."""
    return [sys.executable, TOOLS / f"{name}.py", *words]


def data_stages(variant: Variant) -> list[Stage]:
    """Scenes and tokenizer, which all seeds share."""
    scenes, tokenizer = variant.folder / "scenes", variant.folder / "tokenizer"
    captions = scenes / "captions_train.jsonl"
    return [
        Stage("scenes", tool("make_scenes", scenes, "--tier", variant.tier), scenes),
        Stage(
            "tokenizer",
            tool(
                *("train_tokenizer", captions, "--out", tokenizer, "--vocab-size", "400"),
                *("--context-length", str(variant.context_length)),
            ),
            tokenizer,
        ),
    ]


def training_stages(variant: Variant, run: Path, seed: int) -> list[Stage]:
    """The trainings, evaluation, pictures and export of one seed."""
    stages = []
    best = run
    for training in variant.trainings:
        words = [f"runs={run}", f"seed={seed}"]
        if training.start is not None:
            words.append(f"{training.start}={best}")
        folder = run / training.run
        best = folder / "best"
        config = CONFIGS / f"{training.config}.yaml"
        stages.append(Stage(training.stage, tool(training.tool, config, *words), best, folder))
    scenes = variant.folder / "scenes"
    evaluation = Stage(
        "evaluation",
        tool(
            *("evaluate_coco", best, "--images", scenes, "--templates", "none"),
            *("--annotations", scenes / "annotations" / "instances_val.json"),
            *("--split", scenes / "annotations" / "split.json", "--batch-size", "64"),
            *("--out", run / "evaluation", "--samples", str(PICTURES)),
        ),
        run / "evaluation" / "metrics.json",
    )
    # What the demo opens without being told.
    exported = run / "onnx"
    export = Stage("export", tool("export_onnx", best, exported, "--attention"), exported)
    return [*stages, evaluation, export]


def run_stages(stages: Sequence[Stage], clock: Path) -> dict[str, float]:
    """Runs what has not been done; returns the seconds that each stage took, whenever that was.

    Args:
        stages: In their order.
        clock: File of the seconds of stages that are done and, under ``unfinished``, of attempts.
    """
    seconds = json.loads(clock.read_text()) if clock.is_file() else {}
    unfinished: dict[str, float] = seconds.setdefault("unfinished", {})
    for stage in stages:
        if stage.name in seconds and stage.result.exists():
            continue
        words = [str(word) for word in stage.words]
        before = 0.0
        if stage.training is not None and can_go_on(stage.training):
            words.append("resume=true")
            before = unfinished.get(stage.name, 0.0)
        print(f"\n== {stage.name}: {shlex.join(words[1:])}", flush=True)
        start = time.perf_counter()
        status = run_command(words)
        unfinished[stage.name] = round(before + time.perf_counter() - start, 1)
        if status == 0:
            seconds[stage.name] = unfinished.pop(stage.name)
        clock.write_text(json.dumps(seconds))
        if status in INTERRUPTED:
            print(f"{stage.name} was interrupted; the same command goes on", file=sys.stderr)
            raise SystemExit(status)
        if status:
            raise SystemExit(f"error: {stage.name} ended with status {status}")
    return {stage.name: seconds[stage.name] for stage in stages}


def can_go_on(training: Path) -> bool:
    """Whether a training has a checkpoint; without one, it is cleared away to begin anew."""
    # Slow to import, and not needed for --help.
    from owlkit.engine.checkpoint import has_checkpoint

    if has_checkpoint(training / "last"):
        return True
    if training.exists():
        shutil.rmtree(training)
    return False


def run_command(words: Sequence[str]) -> int:
    """Runs a command to its end and returns its status.

    Ctrl-C reaches the command, too, which may take a while to save what it has.
    """
    interrupted = False
    with subprocess.Popen(words) as process:
        while True:
            try:
                status = process.wait()
            except KeyboardInterrupt:
                interrupted = True
            else:
                return INTERRUPTED[0] if interrupted else status


def run_seed(variant: Variant, seed: int) -> dict[str, float | dict[str, float]]:
    """Runs one seed and returns its row of metrics.json."""
    root = variant.folder
    run = root if seed == 0 else root / f"seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    seconds = run_stages(data_stages(variant), root / ".data_seconds.json")
    seconds |= run_stages(training_stages(variant, run, seed), run / ".seconds.json")
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    # What came before the detector has learned captions.
    captions = run / variant.trainings[-2].run / "metrics.jsonl"
    lines = map(json.loads, captions.read_text().splitlines())
    recalls = [line for line in lines if line["kind"] == "eval"][-1]
    seconds["total"] = round(sum(seconds.values()), 1)
    return {
        "ap_base": metrics["AP_base"],
        "ap50_base": metrics["AP50_base"],
        "ap_novel": metrics["AP_novel"],
        "ap50_novel": metrics["AP50_novel"],
        "ap": metrics["AP"],
        "ap50": metrics["AP50"],
        "recall_at_1": recalls["text_to_image_recall@1"],
        "seconds": seconds,
    }


def write_report(
    backbone: str, tier: str, rows: Sequence[dict[str, float | dict[str, float]]]
) -> Path:
    """Writes report.md: the numbers of each seed, their mean and spread, the times, pictures."""
    root = VARIANTS[backbone, tier].folder
    lines = [
        f"# Quickstart, {tier} scenes, {'DINO' if backbone == 'dino' else 'CLIP'} backbone",
        "",
        "Trained on boxes of the 48 base pairs of a colour and a shape; the 16 novel pairs were in",
        "the captions of stage one only. Measured on the validation scenes, asking for all 64. The",
        "recall is stage one's: captions that find their own scene first, among 100.",
        "",
        *_table(rows),
    ]
    for other, variant in VARIANTS.items():
        metrics = variant.folder / "metrics.json"
        if other != (backbone, tier) and other[1] == tier and metrics.is_file():
            lines += ["", f"For comparison, with the {other[0].upper()} backbone:", ""]
            lines += _table(json.loads(metrics.read_text())["seeds"])
    lines += ["", "| stage | seconds |", "|---|---|"]
    lines += [f"| {stage} | {value:.0f} |" for stage, value in rows[0]["seconds"].items()]
    lines += ["", "![Precision and recall](evaluation/precision_recall.png)", ""]
    lines += ["![Loss](detector/plots/loss.png)", "", "![AP](detector/plots/ap.png)", ""]
    lines += ["Predictions on the left, truth on the right:", ""]
    for picture in sorted((root / "evaluation" / "samples").glob("*.jpg"))[:PICTURES]:
        lines.append(f"![{picture.stem}]({picture.relative_to(root).as_posix()})")
    report = root / "report.md"
    report.write_text("\n".join(lines) + "\n")
    return report


def _table(rows: Sequence[dict[str, float]]) -> list[str]:
    """The numbers of each seed and, of several, their mean and spread."""
    names = [name for name in rows[0] if name != "seconds"]
    lines = ["| seed | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for seed, row in enumerate(rows):
        lines.append(f"| {seed} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |")
    if len(rows) > 1:
        for label, function in (("mean", statistics.mean), ("spread (max - min)", _spread)):
            values = [function([row[name] for row in rows]) for name in names]
            lines.append(f"| {label} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return lines


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def main() -> int:
    """Runs all seeds of a variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tier", choices=("easy", "hard"), default="easy")
    parser.add_argument("--seeds", type=int, default=1, help="how many trainings (default 1)")
    parser.add_argument(
        "--backbone",
        choices=("clip", "dino"),
        default="clip",
        help="what the image tower learns from: captions, or pictures alone (easy scenes only)",
    )
    options = parser.parse_args()
    variant = VARIANTS.get((options.backbone, options.tier))
    if variant is None:
        parser.error(f"--backbone {options.backbone} is there for easy scenes, not {options.tier}")
    rows = [run_seed(variant, seed) for seed in range(options.seeds)]
    metrics = json.dumps({**rows[0], "seeds": rows}, indent=1)
    (variant.folder / "metrics.json").write_text(metrics + "\n")
    report = write_report(options.backbone, options.tier, rows)
    print(f"\n{report.read_text()}\n{report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
