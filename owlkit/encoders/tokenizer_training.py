"""Trains a byte-level BPE tokenizer on captions, laid out as the text towers of CLIP expect.

For runs that start from nothing, without network. The algorithm is that of GPT-2 [0] in the
`tokenizers` package; the layout is CLIP's [1]: start token, text, end token, and the end token has
the largest id of all, because the text towers of CLIP and OWL-ViT take the sentence vector where
the largest id is.

- [0]: Language Models are Unsupervised Multitask Learners, 2019,
  https://github.com/openai/gpt-2
- [1]: Learning Transferable Visual Models From Natural Language Supervision, 2021,
  https://arxiv.org/abs/2103.00020
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from owlkit.errors import TokenError

PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"
SMALLEST_VOCABULARY = 256 + 3


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, context_length: int
) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer; equal texts give an equal tokenizer.

    Text is lower-cased, put into Unicode form NFC, and runs of white space become one space. Every
    byte has a token, so no text is unknown and what remains after that normalisation is decoded
    exactly.

    Args:
        texts: Captions.
        vocab_size: Number of ids V, at least 259 (256 bytes and three special tokens). Fewer come
            out if the captions hold too few different words. Padding is id 0, the start token
            V - 2, the end token V - 1.
        context_length: Longest row in tokens, start and end token included, at least 2.

    Raises:
        TokenError: A size is too small, or there is no text to learn from.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise TokenError(f"vocab_size: expected at least {SMALLEST_VOCABULARY}, found {vocab_size}")
    if context_length < 2:
        raise TokenError(f"context_length: expected at least 2, found {context_length}")
    tokenizer = _untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=[PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_not_empty(texts), trainer=trainer)
    # Added last, so that they get the largest ids.
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        padding_side="right",
        model_max_length=context_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def read_captions(path: Path) -> Iterator[str]:
    """Yields the captions of one file.

    Args:
        path: `.json` in COCO caption format; `.jsonl` with `caption` (text) or `captions` (list of
            texts) in every line; anything else is text with one caption a line, where a line with
            tabs holds the caption after the last of them. Blank lines are left out.

    Raises:
        TokenError: The file cannot be read or does not have that form; says where.
    """
    readers: dict[str, Callable[[str], Iterator[str]]] = {
        ".json": _from_coco,
        ".jsonl": _from_lines,
    }
    try:
        text = path.read_text(encoding="utf-8-sig")
        yield from readers.get(path.suffix.lower(), _from_text)(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TokenError(f"{path}: cannot be read as captions: {error}") from error
    except _CaptionFault as fault:
        raise TokenError(f"{path}: {fault}") from fault


class _CaptionFault(ValueError):
    """Says where in a file something is not a caption."""


def _untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    # The added space makes a word one and the same at the start and in the middle of a caption;
    # the decoder takes it away again.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def _not_empty(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise TokenError("expected several captions, found a single text")
    count = 0
    for text in texts:
        if text.strip():
            count += 1
            yield text
    if not count:
        raise TokenError("expected captions to learn from, found none")


def _from_text(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        caption = line.rpartition("\t")[2].strip()
        if caption:
            yield caption


def _from_coco(text: str) -> Iterator[str]:
    content = json.loads(text)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise _CaptionFault("expected COCO captions: an object with a list `annotations`")
    for row, annotation in enumerate(annotations):
        yield from _captions_of(annotation, where=f"annotations[{row}]")


def _from_lines(text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise _CaptionFault(f"line {number}: not JSON: {error.msg}") from error
        yield from _captions_of(record, where=f"line {number}")


def _captions_of(record: Any, *, where: str) -> Iterator[str]:
    if isinstance(record, dict):
        captions = record.get("captions", [record.get("caption")])
        if isinstance(captions, list) and all(isinstance(each, str) for each in captions):
            yield from captions
            return
    raise _CaptionFault(f"{where}: expected `caption` (text) or `captions` (list of texts)")
