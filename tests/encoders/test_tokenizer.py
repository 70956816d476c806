"""The tokenizer: rows keep their end token, pad on the right, and say when they are cut."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError, TokenError

WORDS = ["<unk>", "<s>", "</s>", "a", "red", "mug", "on", "the", "table", "<pad>"]
START, END, PAD = 1, 2, 9


def _word_tokenizer(**settings: object) -> PreTrainedTokenizerFast:
    """One id per word, `<s>` in front and `</s>` behind."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    backend = BackendTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", START), ("</s>", END)]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{**names, **settings})


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(_word_tokenizer(), context_length=6)


def test_rows_are_as_long_as_the_longest_and_padded_on_the_right(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer(["a red mug", "table"])
    assert ids.tolist() == [[START, 3, 4, 5, END], [START, 8, END, PAD, PAD]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64


def test_padding_to_full_length(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer(["table"], pad_to_full=True)
    assert ids.tolist() == [[START, 8, END, PAD, PAD, PAD]]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0]]


def test_padding_is_on_the_right_whatever_the_tokenizer_says() -> None:
    tokenizer = Tokenizer(_word_tokenizer(padding_side="left"), context_length=6)
    ids, _ = tokenizer(["a red mug", "table"])
    assert ids[1].tolist() == [START, 8, END, PAD, PAD]


def test_truncation_and_padding_stored_in_the_tokenizer_file_are_not_used() -> None:
    """A tokenizer.json may carry both; its truncation would drop the end token's neighbours."""
    inner = _word_tokenizer()
    inner.backend_tokenizer.enable_truncation(3)
    inner.backend_tokenizer.enable_padding(length=9, pad_id=PAD, pad_token="<pad>")
    ids, _ = Tokenizer(inner, context_length=6)(["a red mug"])
    assert ids.tolist() == [[START, 3, 4, 5, END]]


def test_a_long_text_keeps_its_start_and_its_end_token(tokenizer: Tokenizer) -> None:
    """OWL-ViT's own code cut the end token off: all long texts had the same embedding."""
    with pytest.warns(UserWarning, match="cut"):
        ids, mask = tokenizer(["a red mug on the table", "the table on the red mug"])
    assert ids.tolist() == [[START, 3, 4, 5, 6, END], [START, 7, 8, 6, 7, END]]
    assert mask.all()


def test_a_text_of_exactly_the_context_length_is_not_cut(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer(["a red mug on"])
    assert ids.tolist() == [[START, 3, 4, 5, 6, END]]


def test_cutting_warns_once_per_tokenizer_and_names_the_first_text(tokenizer: Tokenizer) -> None:
    message = r"'a red mug on the' has 7 tokens and is cut to the limit of 6"
    with pytest.warns(UserWarning, match=message) as caught:
        tokenizer(["table", "a red mug on the", "a a a a a a"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer(["a red mug on the"])
    with pytest.warns(UserWarning, match=message):
        Tokenizer(_word_tokenizer(), context_length=6)(["a red mug on the"])


def test_transformers_does_not_warn_about_long_texts_as_well() -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.addHandler(handler)
    try:
        with pytest.warns(UserWarning, match="cut"):
            Tokenizer(_word_tokenizer(), context_length=3)(["a red mug"])
        assert [record.getMessage() for record in records] == []
        assert logger.level == level
        # The warning exists and would have been seen.
        _word_tokenizer(model_max_length=3)(["a red mug"])
        assert len(records) == 1
    finally:
        logger.removeHandler(handler)


def test_properties(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_token_id == END
    assert tokenizer.pad_token_id == PAD
    assert tokenizer.vocab_size == len(WORDS)
    assert tokenizer.context_length == 6


def test_the_separator_ends_a_text_where_there_is_no_end_token() -> None:
    tokenizer = Tokenizer(_word_tokenizer(eos_token=None, sep_token="</s>"), context_length=6)
    assert tokenizer.eos_token_id == END


def test_a_tokenizer_without_padding_token_pads_with_its_end_token() -> None:
    tokenizer = Tokenizer(_word_tokenizer(pad_token=None), context_length=6)
    ids, mask = tokenizer(["a red", "a"])
    assert ids[1].tolist() == [START, 3, END, END]
    assert mask[1].tolist() == [1, 1, 1, 0]


def test_a_copy_with_another_context_length_leaves_the_first_alone(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shorter = tokenizer.with_context_length(4)
    with pytest.warns(UserWarning, match="cut to the limit of 4"):
        assert shorter(["a red mug"])[0].tolist() == [[START, 3, 4, END]]
    assert tokenizer(["a red mug"])[0].tolist() == [[START, 3, 4, 5, END]]
    tokenizer.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).context_length == 6


def test_a_tokenizer_without_padding_and_end_token_is_refused() -> None:
    """Padding with id 0 in silence would pad with a word."""
    with pytest.raises(TokenError, match="neither a padding token nor an end token"):
        Tokenizer(_word_tokenizer(pad_token=None, eos_token=None), context_length=6)


def test_context_length_is_the_tokenizers_own_limit_unless_given() -> None:
    assert Tokenizer(_word_tokenizer(model_max_length=5)).context_length == 5
    assert Tokenizer(_word_tokenizer(model_max_length=5), context_length=7).context_length == 7
    with pytest.raises(TokenError, match="pass context_length"):
        Tokenizer(_word_tokenizer())
    with pytest.raises(TokenError, match="at least 2, found 1"):
        Tokenizer(_word_tokenizer(), context_length=1)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        pytest.param("cat", "found the single text 'cat'", id="a string is no list"),
        pytest.param([], "at least one text", id="nothing"),
        pytest.param(["cat", None], "text 1: expected text, found NoneType", id="not text"),
    ],
)
def test_what_is_not_a_list_of_texts(tokenizer: Tokenizer, texts: list[str], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        tokenizer(texts)


def test_a_text_without_any_token_is_refused() -> None:
    inner = _word_tokenizer()
    inner.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    with pytest.raises(TokenError, match="'' has no tokens"):
        Tokenizer(inner, context_length=6)(["a", ""])


def test_an_empty_text_is_its_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer([""])[0].tolist() == [[START, END]]


@pytest.mark.parametrize("as_name", [Path, str])
def test_saved_and_loaded_it_is_the_same(
    tokenizer: Tokenizer, tmp_path: Path, as_name: Callable[[Path], str | Path]
) -> None:
    folder = tmp_path / "model" / "tokenizer"
    tokenizer.save_pretrained(folder)
    loaded = Tokenizer.from_pretrained(as_name(folder))
    texts = ["a red mug", "table"]
    assert loaded.context_length == 6
    assert loaded.pad_token_id == PAD
    for ours, theirs in zip(loaded(texts), tokenizer(texts), strict=True):
        assert torch.equal(ours, theirs)
    assert Tokenizer.from_pretrained(folder, context_length=4).context_length == 4


def test_padding_with_the_end_token_survives_saving(tmp_path: Path) -> None:
    Tokenizer(_word_tokenizer(pad_token=None), context_length=6).save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).pad_token_id == END


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="empty folder"),
        pytest.param("not json", id="not JSON"),
        pytest.param(
            '{"version": "1.0", "added_tokens": [], "model": {"type": "X"}}', id="garbage"
        ),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=f"{tmp_path}: no tokenizer can be loaded: ."):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["./absent", "runs/one/tokenizer", Path("absent")])
def test_a_missing_folder_is_not_looked_up_on_the_network(name: str | Path) -> None:
    with pytest.raises(CheckpointError, match=f"^{name}: no such folder$"):
        Tokenizer.from_pretrained(name)


def test_an_unknown_model_id_is_named() -> None:
    with pytest.raises(CheckpointError, match="no-one/nothing: no such folder: no tokenizer"):
        Tokenizer.from_pretrained("no-one/nothing")
