"""An untrained SigLIP text tower."""

from transformers import SiglipTextConfig, SiglipTextModel

from owlkit.encoders.text import TextTower

VOCAB_SIZE = 32000
CONTEXT_LENGTH = 64
_PADDING = 1


def create_siglip_text_tower(
    *,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    vocab_size: int = VOCAB_SIZE,
    context_length: int = CONTEXT_LENGTH,
    embed_width: int = 768,
    activation: str = "gelu_pytorch_tanh",
) -> TextTower:
    """A transformer that sees the whole padded row and answers at its last position [0].

    - [0]: Sigmoid Loss for Language Image Pre-Training, 2023, https://arxiv.org/abs/2303.15343

    Args:
        width: Hidden width; a multiple of ``heads``.
        depth: Number of blocks.
        heads: Attention heads.
        vocab_size: Number of token ids; id 1 is the padding.
        context_length: Tokens of every text, padding included.
        embed_width: E, width of the embedding.
        activation: ``gelu_pytorch_tanh``, ``gelu`` or ``quick_gelu``.
    """
    config = SiglipTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=context_length,
        hidden_act=activation,
        projection_size=embed_width,
        pad_token_id=_PADDING,
        # One token ends texts and fills rows up.
        eos_token_id=_PADDING,
        bos_token_id=None,
    )
    return TextTower(SiglipTextModel(config), pool="last", pad_token_id=_PADDING)
