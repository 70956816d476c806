"""``owlkit export-backbone``: an image tower in the folder layout of timm or transformers."""

import argparse
import json
import sys
import warnings
from pathlib import Path

SUMMARY = "write an image encoder for timm or transformers"

_LOADED_BY = {
    "timm": 'timm.create_model("local-dir:{}", pretrained=True)',
    "transformers": 'transformers.AutoModel.from_pretrained("{}")',
    # Its pooler, which would be made of random weights, belongs to no published recipe.
    "vit": 'transformers.ViTModel.from_pretrained("{}", add_pooling_layer=False)',
}
_LAYOUTS = ("timm", "transformers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("model", metavar="MODEL", help="folder or hub id of any image encoder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, new or empty")
    parser.add_argument(
        "--layout", choices=_LAYOUTS, required=True, help="whose layout the folder gets"
    )


def run(options: argparse.Namespace) -> int:
    """Loads and writes; returns 0.

    Raises:
        CheckpointError: If the model cannot be loaded, or there is something in the folder.
        ConfigError: If the layout cannot hold the model.
    """
    from owlkit.models import ImageBackbone

    model = ImageBackbone.from_pretrained(options.model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if options.layout == "timm":
            model.save_timm(options.out)
        else:
            model.save_transformers(options.out)
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    written = json.loads((options.out / "config.json").read_text(encoding="utf-8"))
    line = _LOADED_BY.get(written.get("model_type", ""), _LOADED_BY[options.layout])
    print(f"{model.vision.name}: {line.format(options.out)}")
    return 0
