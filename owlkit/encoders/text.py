"""The text tower: any transformers text encoder, with a declared way to take the sentence vector.

Shapes: Q texts, L tokens, D text width, E embedding width.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedModel,
    SiglipTextModel,
)

from owlkit.encoders.hub import load_exactly, read_weights, resolve_folder
from owlkit.encoders.quiet import quiet_transformers
from owlkit.encoders.text_drop_path import add_drop_path
from owlkit.errors import CheckpointError, ConfigError, TokenError

Pool = Literal["argmax", "eos", "last", "cls", "mean"]
POOLS: tuple[str, ...] = get_args(Pool)

# The end token of CLIP models that were converted before it was configurable: a wrong value, which
# transformers takes as the sign to look for the largest id.
LEGACY_EOS = 2
OWL_CONTEXT_LENGTH = 16
CLIP_VOCAB_SIZE = 49408
CLIP_EMBED_WIDTH = 512


class TextTower(nn.Module):
    """Turns token ids into one embedding per text.

    Args:
        model: A transformers text encoder; only its public ``forward`` is called.
        pool: Where the sentence vector is taken:
            ``argmax`` - at the largest token id, which is the end token in CLIP's vocabulary
            (CLIP, OWL-ViT); ``eos`` - at the first end token; ``last`` - at the last position,
            through the model's own head (SigLIP, whose texts must be padded to full length);
            ``cls`` - at the first token; ``mean`` - mean over real tokens.
        projection_width: E of a bias-free projection behind the pool; None for no projection.
        eos_token_id: Id of the end token; required for ``eos``, checked for ``argmax`` if given.
        pad_token_id: A row that starts with this id is padding, not a text.
        drop_path: Stochastic depth rate of the last block in training, rising linearly from 0, in
            [0, 1); as OWL-ViT was trained, what is kept is not scaled up. May be set later, too.

    Attributes:
        width: E, width of the embeddings.

    Raises:
        ConfigError: If the pool is unknown or lacks what it needs, or the model's blocks are not
            known well enough to drop their branches.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pool: Pool,
        projection_width: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"text pool must be one of {', '.join(POOLS)}; found {pool!r}")
        if pool == "eos" and eos_token_id is None:
            raise ConfigError("text pool 'eos' needs eos_token_id")
        if pool == "argmax" and eos_token_id is None and not isinstance(model, CLIPTextModel):
            raise ConfigError(
                "text pool 'argmax' is for CLIP: the end token must be the largest id"
            )
        self.model: Any
        self.model = model
        # What is never read would be waited for by processes that exchange gradients.
        if pool in ("cls", "mean") and hasattr(self.model, "pooler"):
            self.model.pooler = None
        if pool != "last" and isinstance(model, SiglipTextModel):
            self.model.head.requires_grad_(False)
        self.pool = pool
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        pooled = _pooled_width(model, pool)
        self.projection = (
            nn.Linear(pooled, projection_width, bias=False) if projection_width else nn.Identity()
        )
        self.width = projection_width or pooled
        self._drop_handles: list[RemovableHandle] = []
        self.drop_path = drop_path

    @property
    def spec(self) -> dict[str, Any]:
        """The constructor's arguments but the model, ready for JSON."""
        projected = isinstance(self.projection, nn.Linear)
        return {
            "pool": self.pool,
            "projection_width": self.width if projected else None,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "drop_path": self.drop_path,
        }

    @property
    def drop_path(self) -> float:
        """Stochastic depth rate of the last block."""
        return self._drop_path

    @drop_path.setter
    def drop_path(self, rate: float) -> None:
        handles = add_drop_path(self.model, rate) if rate else []
        for handle in self._drop_handles:
            handle.remove()
        self._drop_handles, self._drop_path = handles, rate

    def save_model(self, folder: Path) -> None:
        """Writes the transformers model, without the projection, into a folder."""
        with quiet_transformers():
            self.model.save_pretrained(folder)

    @property
    def context_length(self) -> int:
        """The most tokens a text may have."""
        length = int(self.model.config.max_position_embeddings)
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None):
                # RoBERTa and its kin count positions from behind the padding's own.
                length -= module.padding_idx + 1
        return length

    @property
    def needs_full_length(self) -> bool:
        """Whether texts must be padded to the context length, because padding is attended to."""
        return self.pool == "last"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes texts.

        Args:
            input_ids: Token ids, padded on the right, int64 [Q, L].
            attention_mask: 1 for tokens, 0 for padding [Q, L]; None attends to everything.

        Returns:
            Embeddings [Q, E], projected but not normalised. Rows of padding (first token is the
            padding id, or nothing is attended) hold finite numbers without meaning.

        Raises:
            TokenError: If the ids have the wrong shape, are too long, or a text has no end token
                although the pool takes the vector there.
        """
        self._check_shape(input_ids)
        if input_ids.shape[0] == 0:
            return self._empty()
        padding = self._padding_rows(input_ids, attention_mask)
        if attention_mask is not None:
            # A row with nothing to attend to would make the softmax 0/0.
            attention_mask = attention_mask.masked_fill(padding[:, None], 1)
        if self.pool == "last":
            attention_mask = None
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        pooled = self._take_vector(output, input_ids, attention_mask, padding)
        embeddings: Tensor = self.projection(pooled)
        return embeddings

    def _empty(self) -> Tensor:
        weights = next(self.parameters())
        return torch.zeros(0, self.width, dtype=weights.dtype, device=weights.device)

    def _check_shape(self, input_ids: Tensor) -> None:
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise TokenError(
                f"input_ids must be [Q, L] with at least one token, found {list(input_ids.shape)}"
            )
        length = input_ids.shape[1]
        if length > self.context_length:
            raise TokenError(f"texts have {length} tokens, the tower takes {self.context_length}")
        if self.needs_full_length and length != self.context_length:
            raise TokenError(
                f"this tower reads its last position, so texts must be padded to "
                f"{self.context_length} tokens; found {length}"
            )

    def _padding_rows(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        padding = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        if self.pad_token_id is not None and self.pool in ("argmax", "eos"):
            padding = input_ids[:, 0] == self.pad_token_id
        if attention_mask is not None:
            padding = padding | ~attention_mask.bool().any(dim=1)
        return padding

    def _take_vector(
        self, output: Any, input_ids: Tensor, attention_mask: Tensor | None, padding: Tensor
    ) -> Tensor:
        if self.pool == "last":
            pooled: Tensor = output.pooler_output
            return pooled
        hidden: Tensor = output.last_hidden_state  # [Q, L, D]
        if self.pool == "cls":
            return hidden[:, 0]
        if self.pool == "mean":
            if attention_mask is None:
                return hidden.mean(dim=1)
            weights = attention_mask[..., None].to(hidden.dtype)
            return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        rows = torch.arange(input_ids.shape[0], device=input_ids.device)
        return hidden[rows, self._end_positions(input_ids, padding)]

    def _end_positions(self, input_ids: Tensor, padding: Tensor) -> Tensor:
        """Position of the end token of every row [Q]; 0 for padding rows."""
        if self.pool == "eos":
            assert self.eos_token_id is not None  # the constructor asked for it
            at_end = input_ids.eq(self.eos_token_id)
            positions = at_end.int().argmax(dim=1)
            found = at_end.any(dim=1)
        else:
            largest, positions = input_ids.max(dim=1)
            found = positions > 0
            if self.eos_token_id is not None:
                found = found & (largest == self.eos_token_id)
            # `max` gives any of several equal positions; the first is wanted.
            positions = (input_ids == largest[:, None]).int().argmax(dim=1)
        if not torch.compiler.is_compiling():
            self._check_found(found | padding)
        return torch.where(padding, 0, positions)

    def _check_found(self, found: Tensor) -> None:
        if not bool(found.all()):
            row = int((~found).nonzero()[0])
            raise TokenError(
                f"text in row {row} has no end token (id {self.eos_token_id}): the sentence vector "
                "would come from a wrong position; tokenise with special tokens and keep the last "
                "one when truncating"
            )


def create_text_tower(
    *,
    width: int = 512,
    depth: int = 12,
    heads: int = 8,
    vocab_size: int = CLIP_VOCAB_SIZE,
    context_length: int = OWL_CONTEXT_LENGTH,
    embed_width: int = CLIP_EMBED_WIDTH,
    activation: str = "quick_gelu",
    pool: Pool = "argmax",
) -> TextTower:
    """An untrained CLIP text tower; the end token is the largest id, padding is 0.

    Args:
        width: Hidden width; a multiple of ``heads``.
        depth: Number of blocks.
        heads: Attention heads.
        vocab_size: Number of token ids.
        context_length: Most tokens per text.
        embed_width: E, width of the projected embedding.
        activation: ``quick_gelu``, ``gelu`` or ``gelu_pytorch_tanh``.
        pool: Where the sentence vector is taken.
    """
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=context_length,
        hidden_act=activation,
        pad_token_id=0,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )
    return TextTower(
        CLIPTextModel(config),
        pool=pool,
        projection_width=embed_width,
        eos_token_id=vocab_size - 1,
        pad_token_id=0,
    )


def load_text_model(folder: Path) -> PreTrainedModel:
    """Loads a text model that transformers saved, in float32, every weight accounted for.

    Raises:
        CheckpointError: If the folder cannot be read or weights are missing.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
        if hasattr(config, "text_config"):
            raise CheckpointError(
                f"{folder}: expected a text encoder, found a {config.model_type} model of several "
                "towers; start from it with init_from"
            )
        model_class: Any = {
            "clip_text_model": CLIPTextModel,
            "siglip_text_model": SiglipTextModel,
        }.get(config.model_type, AutoModel)
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                folder, config=config, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: transformers cannot load the text tower: {error}"
        ) from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise CheckpointError(f"{folder}: weights are missing: {', '.join(missing)}")
    text_model: PreTrainedModel = model.eval()
    return text_model


def load_text_tower(
    folder_or_id: str | Path, *, pool: Pool | None = None, projection_width: int | None = None
) -> TextTower:
    """A pretrained transformers text encoder as text tower, for example a multilingual one.

    Args:
        folder_or_id: A folder or hub id with config.json and weights of a text encoder.
        pool: Where the sentence vector is taken; None takes what belongs to the model: ``last`` for
            SigLIP, ``argmax`` for CLIP, ``mean`` for others.
        projection_width: E; None for the width that the folder has. Its own projection, if any, is
            kept unless E is another width; otherwise there is a new, randomly initialised one.

    Raises:
        CheckpointError: If it holds no text encoder.
    """
    folder = resolve_folder(folder_or_id)
    model: Any = load_text_model(folder)
    config = model.config
    own_pools: dict[str, Pool] = {"siglip_text_model": "last", "clip_text_model": "argmax"}
    pool = pool or own_pools.get(config.model_type, "mean")
    own_projection = _read_projection(folder)
    own_width = _pooled_width(model, pool) if own_projection is None else len(own_projection)
    is_trained = own_projection is not None or pool == "last"  # SigLIP's own head
    if is_trained and projection_width == own_width:
        projection_width = None
    if projection_width is not None:
        own_projection = None
    eos = None if config.eos_token_id == LEGACY_EOS else config.eos_token_id
    tower = TextTower(
        model,
        pool=pool,
        projection_width=projection_width if own_projection is None else len(own_projection),
        eos_token_id=eos if pool in ("eos", "argmax") else None,
        pad_token_id=config.pad_token_id,
    )
    if own_projection is not None:
        tower.projection.load_state_dict({"weight": own_projection})
    return tower


def _pooled_width(model: PreTrainedModel, pool: Pool) -> int:
    """Width of the vector that a pool takes; SigLIP's own head may change it."""
    config: Any = model.config
    width = int(config.hidden_size)
    return int(getattr(config, "projection_size", width)) if pool == "last" else width


def _read_projection(folder: Path) -> Tensor | None:
    """The projection [E, D] stored beside a CLIP text encoder, if there is one."""
    return read_weights(folder).get("text_projection.weight")


def is_clip(tower: TextTower) -> bool:
    """Whether the tower is CLIP's text transformer."""
    return isinstance(tower.model, CLIPTextModel)


@torch.no_grad()
def shorten_context(tower: TextTower, context_length: int) -> TextTower:
    """A copy of a CLIP text tower for shorter texts: the first positions are kept.

    OWL-ViT starts from CLIP's 77 positions and keeps 16.

    Raises:
        ConfigError: If the tower is no CLIP text model or has fewer positions.
    """
    old = tower.model
    if not is_clip(tower) or context_length > tower.context_length:
        raise ConfigError(
            f"model.text.context_length: expected at most the {tower.context_length} tokens of a "
            f"CLIP text tower, found {context_length}"
        )
    config = CLIPTextConfig(**{**old.config.to_dict(), "max_position_embeddings": context_length})
    new = TextTower(CLIPTextModel(config), **tower.spec)
    state = tower.state_dict()
    for key in state:
        if key.endswith("position_embedding.weight"):
            state[key] = state[key][:context_length].clone()
    load_exactly(new, state, source="text tower")
    return new
