"""The ``owlkit`` command: one sub-command per job."""

import sys
from collections.abc import Sequence

from owlkit import __version__
from owlkit.cli import (
    annotate,
    attention,
    calibrate,
    convert,
    detect,
    evaluate,
    evaluate_encoder,
    evaluate_queries,
    export,
    export_backbone,
    find,
    make_detector,
    make_queries,
    make_shards,
    search,
    train,
)
from owlkit.cli.command import Command

COMMANDS: dict[str, Command] = {
    "annotate": Command(annotate.SUMMARY, annotate.add_arguments, annotate.run),
    "attention": Command(attention.SUMMARY, attention.add_arguments, attention.run, extra="train"),
    "calibrate": Command(calibrate.SUMMARY, calibrate.add_arguments, calibrate.run, extra="train"),
    "convert": Command(convert.SUMMARY, convert.add_arguments, convert.run),
    "detect": Command(detect.SUMMARY, detect.add_arguments, detect.run),
    "evaluate": Command(evaluate.SUMMARY, evaluate.add_arguments, evaluate.run, extra="train"),
    "evaluate-encoder": Command(
        evaluate_encoder.SUMMARY,
        evaluate_encoder.add_arguments,
        evaluate_encoder.run,
        extra="train",
    ),
    "evaluate-queries": Command(
        evaluate_queries.SUMMARY,
        evaluate_queries.add_arguments,
        evaluate_queries.run,
        extra="train",
    ),
    "export": Command(export.SUMMARY, export.add_arguments, export.run, extra="export"),
    "export-backbone": Command(
        export_backbone.SUMMARY, export_backbone.add_arguments, export_backbone.run
    ),
    "find": Command(find.SUMMARY, find.add_arguments, find.run),
    "make-detector": Command(make_detector.SUMMARY, make_detector.add_arguments, make_detector.run),
    "make-queries": Command(make_queries.SUMMARY, make_queries.add_arguments, make_queries.run),
    "make-shards": Command(
        make_shards.SUMMARY, make_shards.add_arguments, make_shards.run, extra="train"
    ),
    "pretrain": Command(
        train.PRETRAIN_SUMMARY, train.add_arguments, train.run_pretrain, extra="train"
    ),
    "pretrain-dino": Command(
        train.PRETRAIN_DINO_SUMMARY, train.add_arguments, train.run_pretrain_dino, extra="train"
    ),
    "search": Command(search.SUMMARY, search.add_arguments, search.run, extra="train"),
    "train": Command(train.TRAIN_SUMMARY, train.add_arguments, train.run_train, extra="train"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        words: What stands after ``owlkit``; None takes it from the process.

    Returns:
        Exit status: 0 if all went well, 1 after an error, 2 for a wrong command line.
    """
    words = sys.argv[1:] if words is None else words
    name = words[0] if words else "--help"
    if name in COMMANDS:
        return COMMANDS[name].main(words[1:], program=f"owlkit {name}")
    if name == "--version":
        print(f"owlkit {__version__}")
        return 0
    listing = "\n".join(f"  {name:18}{command.summary}" for name, command in COMMANDS.items())
    usage = f"usage: owlkit COMMAND ...\n\n{listing}\n\nowlkit COMMAND --help explains a command."
    if name in ("--help", "-h"):
        print(usage)
        return 0
    print(f"owlkit: no command {name!r}\n{usage}", file=sys.stderr)
    return 2
