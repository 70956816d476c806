"""Detects for others over HTTP, without torch: ``python tools/serve.py FOLDER``."""

import argparse
import sys
from pathlib import Path

from owlkit.cli.command import Command
from owlkit.cli.model_options import add_model_arguments, model_options
from owlkit.errors import ConfigError
from owlkit.predictor import Predictor
from owlkit.queries import QuerySet

SUMMARY = "answer POST /detect (an image, and words or the name of a query set) over HTTP"
# Connections beyond are refused with 503 by uvicorn itself.
_CONNECTIONS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("model", type=Path, help="folder that owlkit export has written")
    parser.add_argument(
        "--queries",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="query set to be asked for by the name of its file, without ending; may be repeated",
    )
    parser.add_argument("--host", default="127.0.0.1", help="(default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8000, help="(default 8000)")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="most images per pass (default 8)"
    )
    for option, default, text in (
        ("--waiting", 32, "requests at a time, others get status 503"),
        ("--megabytes", 20, "largest upload, others get status 413"),
        ("--megapixels", 25, "largest image"),
        ("--boxes", 300, "most boxes of an answer"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{text} (default {default})")
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Serves until it is interrupted.

    Raises:
        ConfigError: If an option is out of its range.
        OwlkitError: If the model or a query set cannot be used.
    """
    for name in ("waiting", "megabytes", "megapixels", "boxes"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}: expected at least 1, found {getattr(options, name)}")
    if len({path.stem for path in options.queries}) < len(options.queries):
        raise ConfigError("--queries: expected files of different names")
    # Not before the options are read: these come with an extra.
    import python_multipart  # noqa: F401  # what forms are read by
    import uvicorn

    from serving.app import make_app
    from serving.limits import Limits

    predictor = Predictor.from_pretrained(
        options.model, batch_size=options.batch_size, **model_options(options)
    )
    limits = Limits(
        waiting=options.waiting,
        upload=options.megabytes << 20,
        pixels=options.megapixels * 1_000_000,
        boxes=options.boxes,
    )
    app = make_app(predictor, {path.stem: QuerySet.load(path) for path in options.queries}, limits)
    uvicorn.run(app, host=options.host, port=options.port, limit_concurrency=_CONNECTIONS)
    return 0


if __name__ == "__main__":
    sys.exit(Command(SUMMARY, add_arguments, run, extra="demo").main())
