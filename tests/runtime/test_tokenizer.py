"""Token ids without transformers are those of :mod:`owlkit.encoders.tokenizer`."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from transformers import CLIPTokenizer, SiglipTokenizer

from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError, TokenError
from owlkit.export.tokenizer import write_tokenizer
from owlkit.runtime import RuntimeTokenizer

TEXTS = [
    "a photo of a cat",
    "  Two   REMOTE\tcontrols!  ",
    "owl",
    "naïve café ﬁne Ⅳ",
    "漢字 🦉",
    "<|endoftext|> in the middle",
    "it's the dog's 3.14 fox-10",
    "",
]

NOUNS = ("cat", "dog", "remote control", "owl", "table", "river", "bridge", "boat")


def _trained(folder: Path, _: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(folder)


def _clip(_: Path, scratch: Path) -> Tokenizer:
    """CLIP's own class, whose word pieces end in ``</w>``."""
    alphabet = [chr(code) for code in range(33, 127)] + ["Ã", "¯", "¨", "ð", "Ł", "¦", "ī"]
    pieces = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{one}</w>" for one in alphabet)]
    merges = [("c", "a"), ("ca", "t</w>"), ("o", "w"), ("ow", "l</w>")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
    return Tokenizer(tokenizer, context_length=24)


def _siglip(_: Path, scratch: Path) -> Tokenizer:
    """SentencePiece's unigrams behind SigLIP's own treatment of text, run by transformers."""
    captions = scratch / "captions.txt"
    lines = [f"a photo of a {noun} on the {place}" for noun in NOUNS for place in NOUNS]
    captions.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(captions),
        model_prefix=str(scratch / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return Tokenizer(SiglipTokenizer(str(scratch / "spiece.model")), context_length=24)


@pytest.mark.parametrize("make", [_trained, _clip, _siglip])
@pytest.mark.parametrize("pad_to_full", [False, True])
def test_ids_and_masks_are_equal(
    make: object, pad_to_full: bool, tokenizer_folder: Path, tmp_path: Path
) -> None:
    oracle = make(tokenizer_folder, tmp_path)
    write_tokenizer(oracle, tmp_path / "tokenizer", pad_to_full=pad_to_full)
    ours = RuntimeTokenizer.from_folder(tmp_path / "tokenizer")
    assert ours.context_length == oracle.context_length
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for texts in (TEXTS, TEXTS[:1], [TEXTS[0] * 40, "owl"]):
            ids, mask = oracle(texts, pad_to_full=pad_to_full)
            found_ids, found_mask = ours(texts)
            np.testing.assert_array_equal(found_ids, ids.numpy())
            np.testing.assert_array_equal(found_mask, mask.numpy())
            assert found_ids.dtype == found_mask.dtype == np.int64


@pytest.fixture
def tokenizer(tokenizer_folder: Path, tmp_path: Path) -> RuntimeTokenizer:
    oracle = Tokenizer.from_pretrained(tokenizer_folder)
    write_tokenizer(oracle, tmp_path / "tokenizer", pad_to_full=False)
    return RuntimeTokenizer.from_folder(tmp_path / "tokenizer")


def test_a_long_text_keeps_its_end_token_and_warns_once(tokenizer: RuntimeTokenizer) -> None:
    with pytest.warns(UserWarning, match="tokens and is cut to the limit of 16; further texts"):
        ids, mask = tokenizer(["cat " * 50])
    assert ids.shape == (1, 16)
    assert ids[0, -1] == 299
    assert mask.all()
    tokenizer(["dog " * 50])  # warnings are errors here


@pytest.mark.parametrize(
    ("texts", "message"),
    [("cat", "found the single text 'cat'"), ([], "at least one text"), (["a", 3], "text 1: expe")],
)
def test_what_is_no_list_of_texts_is_named(
    tokenizer: RuntimeTokenizer, texts: object, message: str
) -> None:
    with pytest.raises(TokenError, match=message):
        tokenizer(texts)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json: no tokenizer can be read"),
        ("tokenizer.json", "{}", "tokenizer.json: no tokenizer can be read"),
        ("owlkit_tokenizer.json", None, "owlkit_tokenizer.json: missing"),
        ("owlkit_tokenizer.json", {"context_length": 16}, "pad_id: expected a number, found None"),
        ("owlkit_tokenizer.json", {"context_length": "16"}, "context_length: expected a number"),
        (
            "owlkit_tokenizer.json",
            {"context_length": 16, "pad_id": 0, "pad_to_full": "no"},
            "pad_to_full: expected true or false, found 'no'",
        ),
    ],
)
def test_damaged_files_are_named(
    tokenizer: RuntimeTokenizer, tmp_path: Path, file: str, content: object, message: str
) -> None:
    path = tmp_path / "tokenizer" / file
    path.unlink()
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        RuntimeTokenizer.from_folder(tmp_path / "tokenizer")
