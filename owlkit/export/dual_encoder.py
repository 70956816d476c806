"""Writes a pair of image and text towers as ONNX graphs, in a folder that runs without torch.

```
owlkit.json            as a detector's, with logit_scale (the factor itself, not its logarithm) and,
                       of SigLIP's kind, logit_bias
image_encoder.onnx     pixels [batch, 3, H, W] -> image_embeds [batch, E], unit vectors
text_encoder.onnx      input_ids, attention_mask [query, length] -> text_embeds [query, E], unit
                       vectors
tokenizer/, README.md  as a detector's
```

Shapes: B images, Q texts, L tokens, E embedding width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from owlkit import __version__
from owlkit.encoders.hub import FORMAT_VERSION, MANIFEST
from owlkit.export.card import model_card
from owlkit.export.detector import ExportReport
from owlkit.export.detector_graphs import (
    Size,
    at_size,
    chosen_sizes,
    write_pixels_graph,
    write_text_graph,
)
from owlkit.export.detector_parity import BATCHES, QUERIES
from owlkit.export.folder import (
    TEXT_GRAPH,
    TOKENIZER,
    graph_entry,
    image_graph_name,
    write_manifest,
)
from owlkit.export.graphs import OPSET
from owlkit.export.parity import Array, GraphRun, Parity, Tolerance, compare
from owlkit.export.tokenizer import write_tokenizer
from owlkit.export.wrappers import example_tokens
from owlkit.images import ImageSource, load_image
from owlkit.models.checkpoint import replaced_folder
from owlkit.models.dual_encoder import DualEncoder
from owlkit.runtime.dual_encoder import IMAGE_OUTPUT, TEXT_OUTPUT
from owlkit.runtime.manifest import DUAL_ENCODER

# Towers that read all rows to their full length would take minutes for as many texts as QUERIES.
_MOST_FULL_TEXTS = 32
_SEED = 20


class ImageGraph(nn.Module):
    """Images to unit vectors.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes preprocessed images [B, 3, H, W]; returns unit vectors, float32 [B, E]."""
        return self.model.encode_images(pixels).float()


class TextGraph(nn.Module):
    """Token ids to unit vectors.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes ids and mask [Q, L], both int64; returns unit vectors, float32 [Q, E]."""
        return self.model.encode_text(input_ids, attention_mask).float()


def export_dual_encoder(
    model: DualEncoder,
    folder: str | Path,
    *,
    sizes: Sequence[Size] | None = None,
    tolerance: Tolerance | None = None,
    photographs: Sequence[ImageSource] = (),
) -> ExportReport:
    """Writes both towers, tokenizer and preprocessing, and proves that they are right.

    Both graphs are run by ONNX Runtime on batches, numbers of texts and lengths other than those
    traced, and compared with the model in float32. A model without a tokenizer is written without
    its text tower.

    Args:
        model: In float32 on the CPU; it is switched to evaluation mode.
        folder: A new folder, or one that holds an owlkit model, which is replaced once all went
            well.
        sizes: (H, W) of the images in pixels, one graph for each, the default first; None for the
            model's own.
        tolerance: Largest differences that are accepted; None for the usual ones.
        photographs: Compared beside noise.

    Returns:
        What was measured.

    Raises:
        ConfigError: If a size is named twice, or the model cannot be expressed in ONNX.
        InputSizeError: If the model cannot take images of one of the sizes.
        CheckpointError: If the graphs differ from the model, with the table, or the folder holds
            something else; nothing is left behind.
    """
    chosen = chosen_sizes(model, sizes)
    limits = tolerance or Tolerance()
    model.eval()
    with replaced_folder(Path(folder), marker=MANIFEST) as new:
        # Before the long work: what cannot be done is said at once.
        resized = [at_size(model, size) for size in chosen]
        parity = Parity()
        if model.tokenizer is not None:
            full = model.text.needs_full_length
            write_tokenizer(model.tokenizer, new / TOKENIZER, pad_to_full=full)
            write_text_graph(TextGraph(model), model.text, new / TEXT_GRAPH, output=TEXT_OUTPUT)
            parity += _check_text_graph(model, new / TEXT_GRAPH, limits)
        for size, sized in zip(chosen, resized, strict=True):
            path = new / image_graph_name(size, default=chosen[0])
            write_pixels_graph(ImageGraph(sized), path, size=size, outputs=[IMAGE_OUTPUT])
            parity += _check_image_graph(model, path, size, limits, photographs)
        parity.check(folder)
        manifest = _manifest(model, new, chosen)
        manifest["measured"] = {"parity": parity.to_dict()}
        write_manifest(new, manifest)
        (new / "README.md").write_text(model_card(manifest, parity), encoding="utf-8")
    return ExportReport(Path(folder), parity)


@torch.no_grad()
def _check_text_graph(model: DualEncoder, path: Path, tolerance: Tolerance) -> Parity:
    graph, module, parity = GraphRun(path), TextGraph(model), Parity()
    for count, length in zip(QUERIES, (model.text.context_length, 4, 6), strict=True):
        texts = min(count, _MOST_FULL_TEXTS) if model.text.needs_full_length else count
        ids, mask = example_tokens(model.text, texts, length, seed=_SEED + count)
        parity += compare(
            path.name,
            f"{texts} texts of {ids.shape[1]} tokens",
            graph(input_ids=ids.numpy(), attention_mask=mask.numpy()),
            {TEXT_OUTPUT: module(ids, mask).numpy()},
            {TEXT_OUTPUT: tolerance.embeddings},
        )
    return parity


@torch.no_grad()
def _check_image_graph(
    model: DualEncoder,
    path: Path,
    size: Size,
    tolerance: Tolerance,
    photographs: Sequence[ImageSource],
) -> Parity:
    """Compares image vectors, and the logits that they give with random texts' vectors."""
    graph, module, parity = GraphRun(path), ImageGraph(model), Parity()
    generator = torch.Generator().manual_seed(_SEED)
    texts = torch.randn(QUERIES[-1], model.text.width, generator=generator)
    scaled = nn.functional.normalize(texts, dim=-1).T * model.logit_scale.exp()
    limits = {IMAGE_OUTPUT: tolerance.embeddings, "logits": tolerance.logits}

    def outputs(embeds: Tensor) -> Mapping[str, Array]:
        return {IMAGE_OUTPUT: embeds.numpy(), "logits": (embeds @ scaled).numpy()}

    for pixels, name in _inputs(model, size, photographs):
        found = torch.from_numpy(graph(pixels=pixels)[IMAGE_OUTPUT])
        expected = module(torch.from_numpy(pixels))
        parity += compare(path.name, name, outputs(found), outputs(expected), limits)
    return parity


def _inputs(
    model: DualEncoder, size: Size, photographs: Sequence[ImageSource]
) -> Iterator[tuple[Array, str]]:
    """Model inputs, float32 [B, 3, H, W], with their names."""
    generator = np.random.default_rng(_SEED)
    for batch in BATCHES:
        noise = generator.standard_normal((batch, 3, *size), dtype=np.float32)
        yield noise, f"noise, batch {batch}"
    preprocessing = replace(model.preprocessing, size=size)
    for index, photograph in enumerate(photographs):
        yield preprocessing(load_image(photograph))[0][None], f"photograph {index}"


def _manifest(model: DualEncoder, folder: Path, sizes: Sequence[Size]) -> dict[str, Any]:
    """The manifest of a model whose graphs lie in a folder; see :mod:`owlkit.export.folder`."""
    images = [
        graph_entry(folder / image_graph_name(size, default=sizes[0]), size=size) for size in sizes
    ]
    graphs: dict[str, Any] = {"image_encoder": images}
    if (folder / TEXT_GRAPH).is_file():
        graphs["text_encoder"] = graph_entry(folder / TEXT_GRAPH)
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "owlkit_version": __version__,
        "kind": DUAL_ENCODER,
        "preprocessing": model.preprocessing.to_dict() | {"size": list(sizes[0])},
        "logit_scale": float(model.logit_scale.detach().exp()),
    }
    if model.logit_bias is not None:
        manifest["logit_bias"] = float(model.logit_bias.detach())
    return manifest | {
        "graphs": graphs,
        "embed_width": model.text.width,
        "context_length": model.text.context_length,
        "opset": OPSET,
        "precision": "float32",
        "architecture": model.architecture,
    }
