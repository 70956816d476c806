"""From strings to embeddings: tokenise, encode each distinct string once, put back in order."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from owlkit.encoders.text import TextTower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError

# Texts per pass: enough to keep the hardware busy, few enough for any memory.
_CHUNK = 512


def check_tokenizer(tokenizer: Tokenizer | None, tower: TextTower) -> None:
    """Makes sure that a tokenizer's ids mean to the tower what the tokenizer means by them.

    Raises:
        CheckpointError: If there are more ids than embeddings, or the end tokens differ.
    """
    if tokenizer is None:
        return
    rows = int(tower.model.config.vocab_size)
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"tokenizer and text tower do not fit: {tokenizer.vocab_size} ids, {rows} embeddings"
        )
    ends = (tokenizer.eos_token_id, tower.eos_token_id)
    if None not in ends and ends[0] != ends[1]:
        raise CheckpointError(
            f"tokenizer and text tower do not fit: the tokenizer ends a text with id {ends[0]}, "
            f"the tower looks for {ends[1]}"
        )


def encode_strings(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    tower: TextTower,
    encode: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Encodes strings with as few and as short token rows as possible.

    Args:
        texts: Q strings, repeats allowed.
        tokenizer: Its rows are trimmed to the longest text where the tower allows it.
        tower: Decides about trimming and says where ids must live.
        encode: Takes ids and mask [U, L] and returns [U, E].

    Returns:
        Embeddings in the order of ``texts`` [Q, E].
    """
    distinct = list(dict.fromkeys(texts))
    device = next(tower.parameters()).device
    chunks = [torch.zeros(0, tower.width, device=device)]
    for start in range(0, len(distinct), _CHUNK):
        chunk = distinct[start : start + _CHUNK]
        input_ids, attention_mask = tokenizer(chunk, pad_to_full=tower.needs_full_length)
        chunks.append(encode(input_ids.to(device), attention_mask.to(device)))
    embeddings = torch.cat(chunks)
    row = {text: index for index, text in enumerate(distinct)}
    order = torch.tensor([row[text] for text in texts], dtype=torch.int64, device=device)
    return embeddings[order]
