"""The whole life of a small detector on synthetic scenes: ``make quickstart``.

Runs the ordinary commands one after another - scenes, tokenizer, contrastive pretraining, detector
training on the base pairs, evaluation on all pairs, pictures - and writes ``report.md`` and
``metrics.json``. A step that is done is not done again; an interrupted training goes on.
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
FOLDERS = {"easy": Path("runs/quickstart"), "hard": Path("runs/quickstart-hard")}
PICTURES = 12


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


def data_stages(root: Path, tier: str) -> list[Stage]:
    """Scenes and tokenizer, which all seeds share."""
    scenes, tokenizer = root / "scenes", root / "tokenizer"
    captions = scenes / "captions_train.jsonl"
    return [
        Stage("scenes", tool("make_scenes", scenes, "--tier", tier), scenes),
        Stage(
            "tokenizer",
            tool(
                *("train_tokenizer", captions, "--out", tokenizer),
                *("--vocab-size", "400", "--context-length", "32" if tier == "easy" else "64"),
            ),
            tokenizer,
        ),
    ]


def training_stages(root: Path, run: Path, tier: str, seed: int) -> list[Stage]:
    """Both trainings, evaluation and pictures of one seed."""
    prefix = "" if tier == "easy" else "hard_"
    scenes, best = root / "scenes", run / "detector" / "best"
    common = [f"runs={run}", f"seed={seed}"]
    return [
        Stage(
            "stage_one",
            tool("pretrain_clip", CONFIGS / f"{prefix}clip.yaml", *common),
            run / "clip" / "best",
            training=run / "clip",
        ),
        Stage(
            "stage_two",
            tool(
                *("train_detector", CONFIGS / f"{prefix}detector.yaml", *common),
                f"model.init_from={run / 'clip' / 'best'}",
            ),
            best,
            training=run / "detector",
        ),
        Stage(
            "evaluation",
            tool(
                *("evaluate_coco", best, "--images", scenes, "--templates", "none"),
                *("--annotations", scenes / "annotations" / "instances_val.json"),
                *("--split", scenes / "annotations" / "split.json", "--batch-size", "64"),
                *("--out", run / "evaluation", "--samples", str(PICTURES)),
            ),
            run / "evaluation" / "metrics.json",
        ),
    ]


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


def run_seed(root: Path, tier: str, seed: int) -> dict[str, float | dict[str, float]]:
    """Runs one seed and returns its row of metrics.json."""
    run = root if seed == 0 else root / f"seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    seconds = run_stages(data_stages(root, tier), root / ".data_seconds.json")
    seconds |= run_stages(training_stages(root, run, tier, seed), run / ".seconds.json")
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    lines = map(json.loads, (run / "clip" / "metrics.jsonl").read_text().splitlines())
    clip = [line for line in lines if line["kind"] == "eval"][-1]
    seconds["total"] = round(sum(seconds.values()), 1)
    return {
        "ap_base": metrics["AP_base"],
        "ap50_base": metrics["AP50_base"],
        "ap_novel": metrics["AP_novel"],
        "ap50_novel": metrics["AP50_novel"],
        "ap": metrics["AP"],
        "ap50": metrics["AP50"],
        "clip_recall_at_1": clip["text_to_image_recall@1"],
        "seconds": seconds,
    }


def write_report(root: Path, tier: str, rows: Sequence[dict[str, float]]) -> None:
    """Writes report.md: the numbers of each seed, their mean and spread, the times, pictures."""
    names = [name for name in rows[0] if name != "seconds"]
    lines = [
        f"# Quickstart, {tier} scenes",
        "",
        "Trained on boxes of the 48 base pairs of a colour and a shape; the 16 novel pairs were in",
        "the captions of stage one only. Measured on the validation scenes, asking for all 64. The",
        "recall is stage one's: captions that find their own scene first, among 100.",
        "",
        "| seed | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for seed, row in enumerate(rows):
        lines.append(f"| {seed} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |")
    if len(rows) > 1:
        for label, function in (("mean", statistics.mean), ("spread (max - min)", _spread)):
            values = [function([row[name] for row in rows]) for name in names]
            lines.append(f"| {label} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    lines += ["", "| stage | seconds |", "|---|---|"]
    lines += [f"| {stage} | {value:.0f} |" for stage, value in rows[0]["seconds"].items()]
    lines += ["", "![Precision and recall](evaluation/precision_recall.png)", ""]
    lines += ["![Loss](detector/plots/loss.png)", "", "![AP](detector/plots/ap.png)", ""]
    lines += ["Predictions on the left, truth on the right:", ""]
    for picture in sorted((root / "evaluation" / "samples").glob("*.jpg"))[:PICTURES]:
        lines.append(f"![{picture.stem}]({picture.relative_to(root).as_posix()})")
    (root / "report.md").write_text("\n".join(lines) + "\n")


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def main() -> int:
    """Runs all seeds of a tier."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tier", choices=FOLDERS, default="easy")
    parser.add_argument("--seeds", type=int, default=1, help="how many trainings (default 1)")
    options = parser.parse_args()
    root = FOLDERS[options.tier]
    rows = [run_seed(root, options.tier, seed) for seed in range(options.seeds)]
    (root / "metrics.json").write_text(json.dumps({**rows[0], "seeds": rows}, indent=1) + "\n")
    write_report(root, options.tier, rows)
    print(f"\n{(root / 'report.md').read_text()}\n{root / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
