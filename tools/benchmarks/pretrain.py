"""A training step of CLIP ViT-B/32 against open_clip's, on the same weights, pixels and captions.

Both steps are what the two trainers do with a batch that has arrived: towers, CLIP loss, backward
pass, clipping and a fused AdamW that spares biases and norms from weight decay. open_clip gets
normalised pixels and token ids, because its loader makes them; owlkit's step begins with uint8
pixels and strings. Every text of open_clip's is a row of 77 tokens; owlkit's rows end with the
longest caption of the batch.
"""

import math
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from transformers import CLIPTokenizer

from benchmarks.comparison import Row, compare
from benchmarks.inputs import NAMES, make_photo
from owlkit.build.dual_encoder import build_dual_encoder
from owlkit.build.runs import suit_attention
from owlkit.config import (
    DualEncoderSection,
    OptimSection,
    TextSection,
    TrainSection,
    VisionSection,
)
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.engine import ContrastiveTask, clip_objective, create_accelerator
from owlkit.engine.accelerator import prepare_task
from owlkit.engine.clipping import make_clipping
from owlkit.engine.parameter_groups import make_optimizer
from owlkit.models import DualEncoder
from owlkit.structures import PairBatch

NAME = "ViT-B-32"
SIZE = 224
BATCH = 32
CONTEXT = 77
SHORTEST, LONGEST = 10, 20  # tokens of a caption, start and end token included
OPTIM = OptimSection(lr=1e-5, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6, clip_norm=1.0)
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}  # of the first loss, relative

# From open_clip's names for a text tower to those of transformers; the first that fits counts.
_TEXT_NAMES = {
    r"^token_embedding\.": "embeddings.token_embedding.",
    r"^positional_embedding$": "embeddings.position_embedding.weight",
    r"^ln_final\.": "final_layer_norm.",
    r"^transformer\.resblocks\.(\d+)\.ln_(\d)\.": r"encoder.layers.\1.layer_norm\2.",
    r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.": r"encoder.layers.\1.self_attn.out_proj.",
    r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_": r"encoder.layers.\1.self_attn.*_proj.",
    r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.": r"encoder.layers.\1.mlp.fc1.",
    r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.": r"encoder.layers.\1.mlp.fc2.",
}


class OwlkitStep:
    """One step of owlkit's training loop on one batch, again and again.

    Args:
        model: Learns.
        batch: On the CPU.
        precision: Of activations.
    """

    def __init__(self, model: DualEncoder, batch: PairBatch, *, precision: str) -> None:
        train = TrainSection.model_validate({"precision": precision, "batch_size": len(batch)})
        self.accelerator = create_accelerator(train)
        suit_attention(model.vision, self.accelerator, train)
        task = ContrastiveTask(model, clip_objective())
        self.finish_step = task.finish_step
        self.task = prepare_task(task.train(), self.accelerator)
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(task, OPTIM))
        self.clipping = make_clipping(
            OPTIM, task=self.task, accelerator=self.accelerator, accumulation=1
        )
        self.batch = batch

    def __call__(self) -> float:
        """What the loop does with a batch; returns the loss."""
        batch = self.batch.to(self.accelerator.device, non_blocking=True)
        loss: Tensor = self.task(batch)["loss"]
        self.accelerator.backward(loss)
        self.clipping.finish()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.finish_step()
        return loss.item()


class OpenClipStep:
    """The same of open_clip's trainer.

    Args:
        model: Learns.
        loss: open_clip's.
        pixels: Normalised [B, 3, H, W].
        ids: Token ids [B, 77].
        precision: Of activations.
    """

    def __init__(
        self, model: nn.Module, loss: nn.Module, *, pixels: Tensor, ids: Tensor, precision: str
    ) -> None:
        self.model: Any = model.train()
        self.loss = loss
        self.pixels, self.ids = pixels, ids
        self.dtype = getattr(torch, precision)
        self.optimizer = torch.optim.AdamW(
            _decay_groups(model), lr=OPTIM.lr, betas=OPTIM.betas, eps=OPTIM.eps, fused=True
        )

    def __call__(self) -> float:
        """What the loop does with a batch; returns the loss."""
        mixed = self.dtype != torch.float32
        with torch.autocast(self.pixels.device.type, dtype=self.dtype, enabled=mixed):
            loss: Tensor = self.loss(**self.model(self.pixels, self.ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIM.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        return loss.item()


def pretrain(repeats: int, scratch: Path) -> Iterator[Row]:
    """ViT-B/32 at 224 pixels and CLIP's text tower; 32 different captions of 10 to 20 tokens.

    Raises:
        RuntimeError: If the two do not begin with the same loss.
    """
    open_clip = _open_clip()
    words = open_clip.get_tokenizer(NAME)
    captions = _make_captions(words)
    folder = scratch / "clip_tokenizer"
    _same_tokenizer(words).save_pretrained(folder)
    batch = _make_batch(captions)
    for precision in TOLERANCE:
        AcceleratorState._reset_state()  # a process has one precision
        theirs = open_clip.create_model(NAME, output_dict=True)
        ours = _make_dual_encoder(folder)
        _copy_weights(theirs, ours)
        step = OwlkitStep(ours, batch, precision=precision)
        device = step.accelerator.device
        mean, std = (
            torch.tensor(values)[:, None, None] * 255
            for values in (ours.preprocessing.mean, ours.preprocessing.std)
        )
        peer = OpenClipStep(
            theirs.to(device),
            open_clip.ClipLoss(),
            pixels=((batch.images - mean) / std).contiguous().to(device),
            ids=words(captions).to(device),
            precision=precision,
        )
        _check_losses(step(), peer(), tolerance=TOLERANCE[precision])  # and warms up
        yield compare(
            step,
            peer,
            path="pretrain",
            peer=f"open_clip {version('open_clip_torch')}, model and loss",
            settings=(
                f"step of B/32, {SIZE} px, batch {BATCH}, captions of {SHORTEST} to {LONGEST} "
                f"tokens, {precision}"
            ),
            repeats=repeats,
            warm_up=False,
        )


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise SystemExit(
            "pretrain compares with open_clip, which is not installed: pip install open_clip_torch"
        ) from error
    return open_clip


def _check_losses(ours: float, theirs: float, *, tolerance: float) -> None:
    if abs(ours - theirs) > tolerance * theirs:
        raise RuntimeError(f"expected equal losses, found {ours} (owlkit) and {theirs} (open_clip)")


def _make_captions(words: Any) -> list[str]:
    """Different ones, whose lengths in tokens go evenly through the range.

    Args:
        words: open_clip's tokenizer.
    """
    names = sorted({word for name in NAMES for word in name.split()})
    single = [word for word in names if len(words.encode(word)) == 1]
    generator = np.random.default_rng(0)
    lengths = np.linspace(SHORTEST, LONGEST, BATCH).round().astype(int) - 2
    return [" ".join(generator.choice(single, length)) for length in lengths]


def _same_tokenizer(words: Any) -> Tokenizer:
    """CLIP's vocabulary, of which open_clip has a copy, for owlkit."""
    start, end = (words.decoder[number] for number in (words.sot_token_id, words.eot_token_id))
    tokenizer = CLIPTokenizer(
        vocab=words.encoder,
        merges=list(words.bpe_ranks),
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    )
    return Tokenizer(tokenizer, context_length=CONTEXT)


def _make_batch(captions: Sequence[str]) -> PairBatch:
    images = np.stack([np.array(make_photo(SIZE, SIZE, seed=seed)) for seed in range(BATCH)])
    return PairBatch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        texts=tuple(captions),
        identities=torch.arange(BATCH),
        sources=tuple(f"picture {number}" for number in range(BATCH)),
    )


def _make_dual_encoder(tokenizer: Path) -> DualEncoder:
    """With GELU in both towers, as open_clip's."""
    return build_dual_encoder(
        DualEncoderSection(
            vision=VisionSection(name="vit_base_patch32_clip_224", image_size=SIZE),
            text=TextSection(tokenizer=str(tokenizer), context_length=CONTEXT, activation="gelu"),
        )
    )


def _decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay as open_clip's trainer applies it."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": 0.0},
        {"params": [], "weight_decay": OPTIM.weight_decay},
    ]
    for name, parameter in model.named_parameters():
        spared = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias"))
        groups[not spared]["params"].append(parameter)
    return groups


def _copy_weights(theirs: nn.Module, ours: DualEncoder) -> None:
    """Gives owlkit's model the weights of open_clip's."""
    state = theirs.state_dict()
    vision = checkpoint_filter_fn(dict(state), ours.vision.model)
    projection = vision.pop("head.weight")
    del vision["head.bias"]  # timm adds one of zeros
    ours.vision.model.load_state_dict(vision)
    assert ours.image_projection is not None
    ours.image_projection.load_state_dict({"weight": projection})
    ours.text.projection.load_state_dict({"weight": state["text_projection"].T})
    ours.text.model.load_state_dict(_text_state(state))
    ours.logit_scale.data.copy_(state["logit_scale"])


def _text_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's weights under the names that transformers has for them."""
    renamed: dict[str, Tensor] = {}
    for name, weight in state.items():
        for pattern, replacement in _TEXT_NAMES.items():
            new, count = re.subn(pattern, replacement, name)
            if not count:
                continue
            if "*" in new:  # query, key and value are one matrix in open_clip
                parts = zip("qkv", weight.chunk(3), strict=True)
                renamed.update({new.replace("*", letter): part for letter, part in parts})
            else:
                renamed[new] = weight
    return renamed
