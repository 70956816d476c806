"""Training a tokenizer: ids where CLIP's text tower wants them, nothing unknown, repeatable."""

import json
import runpy
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as BackendTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.tokenizer_training import read_captions, train_tokenizer
from owlkit.errors import TokenError

TOOL = Path(__file__).parents[2] / "tools" / "train_tokenizer.py"
CAPTIONS = [
    "A red mug on the table.",
    "The red mug is on a table in the kitchen.",
    "Two dogs play with a red ball on the grass.",
    "A dog looks at the ball.",
] * 4


@pytest.fixture(scope="module")
def trained() -> PreTrainedTokenizerFast:
    return train_tokenizer(CAPTIONS, vocab_size=300, context_length=12)


@pytest.fixture(scope="module")
def real_captions(data_dir: Path) -> list[str]:
    return list(read_captions(data_dir / "text" / "coco_val2017_captions.txt"))[:3000]


def test_special_tokens_are_at_the_ends_of_the_vocabulary(trained: PreTrainedTokenizerFast) -> None:
    assert len(trained) == 300
    assert trained.convert_tokens_to_ids(["<|pad|>", "<|startoftext|>", "<|endoftext|>"]) == [
        0,
        298,
        299,
    ]
    assert (trained.pad_token_id, trained.bos_token_id, trained.eos_token_id) == (0, 298, 299)


def test_the_end_token_stays_the_largest_where_too_few_words_are_known() -> None:
    tokenizer = train_tokenizer(["ab ab"], vocab_size=5000, context_length=8)
    size = len(tokenizer)
    assert size < 300
    assert tokenizer.eos_token_id == size - 1
    assert max(tokenizer.get_vocab().values()) == size - 1


def test_rows_have_a_start_and_an_end_and_the_end_is_the_argmax(
    trained: PreTrainedTokenizerFast,
) -> None:
    ids, mask = Tokenizer(trained)(["a red mug", "", "\U0001f98a " * 2])
    assert (ids[:, 0] == 298).all()
    assert ids.argmax(dim=1).tolist() == (mask.sum(dim=1) - 1).tolist()
    assert ids.amax(dim=1).tolist() == [299] * 3


def test_a_word_is_the_same_token_anywhere_in_a_caption(trained: PreTrainedTokenizerFast) -> None:
    (alone,) = trained("mug", add_special_tokens=False)["input_ids"]
    assert alone in trained("the red mug")["input_ids"]


def test_text_is_normalised(trained: PreTrainedTokenizerFast) -> None:
    same = ["a caf\u00e9 table", "  A  CAFE\u0301\t\nTable "]
    first, second = trained(same)["input_ids"]
    assert first == second
    assert trained.decode(second, skip_special_tokens=True) == same[0]


@given(st.text())
def test_any_text_comes_back_as_it_was_but_for_normalisation(
    trained: PreTrainedTokenizerFast, text: str
) -> None:
    ids = trained(text, add_special_tokens=False)["input_ids"]
    expected = trained.backend_tokenizer.normalizer.normalize_str(text)
    assert trained.decode(ids) == expected
    assert unicodedata.normalize("NFC", expected) == expected


def test_every_byte_has_a_token() -> None:
    """Learned from one word, all 256 bytes are still there, so no text is unknown."""
    tokenizer = train_tokenizer(["x"], vocab_size=259, context_length=8)
    assert len(tokenizer) == 259
    for code in [0x00, 0x7F, 0x80, 0xFF, 0x7FF, 0x800, 0xFFFD, 0x10000, 0x10FFFF]:
        ids = tokenizer(f"x{chr(code)}x", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == f"x{chr(code)}x".lower()


def test_real_captions_train_small_and_repeatable(real_captions: list[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenizer = train_tokenizer(iter(real_captions), vocab_size=1500, context_length=16)
        tokenizer.save_pretrained(tmp_path / name)
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two"))
    assert first == second
    # Common words are one token each; without merges the mean would be over 50.
    lengths = [len(ids) for ids in tokenizer(real_captions)["input_ids"]]
    assert sum(lengths) / len(lengths) < 18
    (cat,) = tokenizer("cat", add_special_tokens=False)["input_ids"]
    assert 256 < cat < 1498


def test_the_saved_folder_gives_equal_ids_in_transformers_and_tokenizers(
    real_captions: list[str], tmp_path: Path
) -> None:
    trained = train_tokenizer(real_captions[:500], vocab_size=600, context_length=9)
    trained.save_pretrained(tmp_path)
    texts = [*real_captions[500:600], "", " \u732b  \U0001f431 ", "A\u0301"]
    expected = trained(texts)["input_ids"]

    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(texts)["input_ids"] == expected
    assert (loaded.model_max_length, loaded.padding_side, loaded.pad_token_id) == (9, "right", 0)
    backend = BackendTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [each.ids for each in backend.encode_batch(texts)] == expected
    ours = Tokenizer.from_pretrained(tmp_path)
    assert ours.context_length == 9
    assert ours([texts[-1]])[0].tolist() == [expected[-1]]


@pytest.mark.parametrize(
    ("texts", "sizes", "message"),
    [
        pytest.param(["a"], {"vocab_size": 258}, "vocab_size: expected at least 259", id="small"),
        pytest.param(["a"], {"context_length": 1}, "context_length: expected at least 2", id="row"),
        pytest.param([], {}, "expected captions to learn from, found none", id="nothing"),
        pytest.param(["", " \n"], {}, "expected captions to learn from", id="only blanks"),
        pytest.param("a caption", {}, "found a single text", id="a string is no list"),
    ],
)
def test_training_on_nonsense(texts: Any, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        train_tokenizer(texts, **{"vocab_size": 300, "context_length": 8, **sizes})


@pytest.mark.parametrize(
    ("name", "content", "captions"),
    [
        ("a.txt", "One \n\n two\r\n", ["One", "two"]),
        ("a.txt", "\ufeff1.jpg#0\tA dog\n1.jpg#1\ten\tA cat\n", ["A dog", "A cat"]),
        (
            "a.json",
            json.dumps({"images": [], "annotations": [{"id": 1, "caption": "A dog"}]}),
            ["A dog"],
        ),
        (
            "A.JSONL",
            '{"caption": "A dog"}\n\n{"file": "x", "captions": ["B", "C"]}\n',
            ["A dog", "B", "C"],
        ),
    ],
)
def test_captions_are_read(tmp_path: Path, name: str, content: str, captions: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert list(read_captions(tmp_path / name)) == captions


def test_real_caption_files_are_read(data_dir: Path) -> None:
    coco = list(read_captions(data_dir / "coco_real" / "captions_val.json"))
    flickr = list(read_captions(data_dir / "captions" / "captions.jsonl"))
    assert (len(coco), len(flickr)) == (765, 5500)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.json", b"{", "cannot be read as captions", id="not JSON"),
        pytest.param("a.json", b"[]", "a list `annotations`", id="not COCO"),
        pytest.param(
            "a.json",
            b'{"annotations": [{"caption": "x"}, {"bbox": []}]}',
            r"annotations\[1\]: expected `caption`",
            id="boxes, not captions",
        ),
        pytest.param("a.jsonl", b'{"caption": "x"}\n{', "line 2: not JSON", id="cut off"),
        pytest.param("a.jsonl", b'{"captions": [1]}', "line 1: expected `caption`", id="numbers"),
        pytest.param("a.jsonl", b'"x"', "line 1: expected `caption`", id="bare text"),
        pytest.param("a.txt", b"caf\xe9", "cannot be read as captions: 'utf-8'", id="not UTF-8"),
        pytest.param("a.txt", None, "No such file", id="missing"),
    ],
)
def test_a_file_that_is_not_captions_is_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenError, match=f"{name}: .*{message}"):
        list(read_captions(tmp_path / name))


def test_a_fault_in_a_file_comes_out_of_training_as_itself(tmp_path: Path) -> None:
    """The captions are read from within the tokenizers package, which is not Python."""
    with pytest.raises(TokenError, match="No such file"):
        train_tokenizer(read_captions(tmp_path / "a.txt"), vocab_size=300, context_length=8)


def test_the_tool_writes_a_folder_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    main = runpy.run_path(str(TOOL))["main"]
    arguments = ["--vocab-size", "280", "--context-length", "7"]
    captions, out = str(tmp_path / "captions.txt"), tmp_path / "new" / "tokenizer"
    main([captions, captions, "--out", str(out), *arguments])
    tokenizer = Tokenizer.from_pretrained(out)
    assert (tokenizer.vocab_size, tokenizer.context_length) == (280, 7)
    assert f"{out}: 280 tokens" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["tokenizer"]

    with pytest.raises(SystemExit, match="is not an empty folder"):
        main([captions, "--out", str(out), *arguments])
    with pytest.raises(SystemExit, match=r"error: .*absent\.txt"):
        main([str(tmp_path / "absent.txt"), "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
