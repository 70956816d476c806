"""The demo: ``python demo/app.py [--model FOLDER|ID]``."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from owlkit.cli.command import Command
from owlkit.cli.model_options import add_model_arguments, model_options
from owlkit.errors import ConfigError
from page.environment import gradio_environment
from page.memory import share_memory

SUMMARY = "open a page that finds words and example boxes in pictures and videos"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--model", help="folder or hub id (default: the quickstart's export, which needs no torch)"
    )
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="FOLDER",
        help="pictures to try, each with its words in a .txt file of the same name",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="pictures that every visitor may search, in the tab Explore",
    )
    parser.add_argument("--host", default="127.0.0.1", help="(default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=7860, help="(default 7860)")
    parser.add_argument(
        "--share", action="store_true", help="a public address by way of gradio's servers"
    )
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Serves the page until it is interrupted.

    Raises:
        ConfigError: If the folder of examples or of pictures cannot be used.
    """
    if options.pictures and not options.pictures.is_dir():
        raise ConfigError(f"--pictures: expected a folder, found none: {options.pictures}")
    examples = read_examples(options.examples) if options.examples else []
    share_memory()
    with tempfile.TemporaryDirectory(prefix="owlkit-demo-") as folder:
        # Before gradio is imported: what is uploaded and made lies here, and is gone at the end.
        os.environ.update(gradio_environment(folder))
        from page.desk import Desk
        from page.limits import Limits
        from page.model import Model
        from page.page import make_page
        from page.serving import serve

        desk = Desk(Model(options.model, model_options(options)), Limits(), Path(folder))
        serve(
            make_page(desk, examples, options.pictures),
            desk.limits,
            desk.folder,
            host=options.host,
            port=options.port,
            share=options.share,
            inbrowser=options.open,
        )
    return 0


def read_examples(folder: Path) -> list[tuple[str, str]]:
    """Pictures of a folder that have words beside them.

    Raises:
        ConfigError: If it is no folder, or there are none.
    """
    pictures = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in _PICTURES]
    rows = [(path, path.with_suffix(".txt")) for path in pictures]
    found = [(str(path), words.read_text().strip()) for path, words in rows if words.is_file()]
    if not found:
        raise ConfigError(
            f"--examples: expected pictures with .txt files of the same name, found none: {folder}"
        )
    return found


if __name__ == "__main__":
    sys.exit(Command(SUMMARY, add_arguments, run, extra="demo").main())
