"""SigLIP's tokenizer, which transformers runs in Python, as one of the `tokenizers` package."""

import re
import string
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from owlkit.errors import ConfigError

_UNIGRAM = 1
_SPACE = "▁"


def rebuild_siglip(tokenizer: Any) -> Tokenizer:
    """Puts a SentencePiece unigram model behind SigLIP's treatment of text.

    Lower case, no ASCII punctuation, one space between words [0], then SentencePiece's own
    normalisation, and an end token behind.

    - [0]: big_vision, evaluators/proj/image_text/prompt_engineering.py, canonicalize_text,
      https://github.com/google-research/big_vision

    Args:
        tokenizer: transformers' ``SiglipTokenizer``.

    Raises:
        ConfigError: If it is another tokenizer, or its model is none of unigrams.
    """
    # Comes with onnx and with torch's extras; loading it takes a while.
    from sentencepiece import sentencepiece_model_pb2

    vocabulary = getattr(tokenizer, "vocab_file", None)
    if vocabulary is None or not hasattr(tokenizer, "canonicalize_text"):
        kind = type(tokenizer).__name__
        raise ConfigError(f"tokenizer: {kind} cannot be exported: it has no tokenizer.json")
    protocol: Any = sentencepiece_model_pb2
    proto = protocol.ModelProto()
    proto.ParseFromString(Path(vocabulary).read_bytes())
    trainer = proto.trainer_spec
    if trainer.model_type != _UNIGRAM:
        raise ConfigError(f"{vocabulary}: expected a unigram model, found {trainer.model_type}")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    rebuilt = Tokenizer(
        models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
    )
    charsmap = proto.normalizer_spec.precompiled_charsmap
    rebuilt.normalizer = _normalizer(charsmap, lower_case=tokenizer.do_lower_case)
    rebuilt.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=_SPACE, prepend_scheme="always", split=False
    )
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    rebuilt.post_processor = processors.TemplateProcessing(
        single=f"$A {end[0]}", special_tokens=[end]
    )
    return rebuilt


def _normalizer(charsmap: bytes, *, lower_case: bool) -> normalizers.Sequence:
    punctuation = Regex(f"[{re.escape(string.punctuation)}]")
    steps: list[Any] = [normalizers.Replace(_SPACE, " ")]
    if lower_case:
        steps.append(normalizers.Lowercase())
    steps += [
        normalizers.Replace(punctuation, ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    return normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])
