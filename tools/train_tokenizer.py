"""Trains a tokenizer on captions: `python tools/train_tokenizer.py CAPTIONS... --out DIR`."""

import argparse
import tempfile
from pathlib import Path

from owlkit.encoders.tokenizer_training import read_captions, train_tokenizer
from owlkit.errors import OwlkitError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "captions",
        nargs="+",
        type=Path,
        help="text (one caption a line, after the last tab if there are any), COCO captions "
        "(.json) or .jsonl with `caption` or `captions`",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--vocab-size", type=int, default=8192, help="default: %(default)s")
    parser.add_argument("--context-length", type=int, default=16, help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Reads, trains, saves."""
    options = parse_arguments(arguments)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise SystemExit(f"error: {options.out} exists and is not an empty folder")
    texts = (caption for path in options.captions for caption in read_captions(path))
    try:
        tokenizer = train_tokenizer(
            texts, vocab_size=options.vocab_size, context_length=options.context_length
        )
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.out.parent) as scratch:
            finished = Path(scratch) / "tokenizer"
            tokenizer.save_pretrained(finished)
            finished.replace(options.out)
    except (OwlkitError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{options.out}: {len(tokenizer)} tokens, rows of at most {options.context_length}")


if __name__ == "__main__":
    main()
