"""Every format of captions gives the same images, and faults are named with their line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from owlkit.data.captions import CaptionedImage, read_captioned_images
from owlkit.errors import DatasetError

ROWS = [
    ("a.jpg", "a dog, brown", "x", "train"),
    ("b.jpg", 'a "cat"\nasleep', "y", "val"),
    ("a.jpg", "one dog", "x", "train"),
]
WANTED = {"a.jpg": (("a dog, brown", "one dog"), "x"), "b.jpg": (('a "cat"\nasleep',), "y")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    return tmp_path


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def write_table(path: Path, names: tuple[str, str] = ("file", "caption"), *, by: str = ",") -> Path:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    rows = [by.join(map(quoted, row)) for row in [(*names, "group", "split"), *ROWS]]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return path


def write_parquet(path: Path, *, lists: bool = False) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    captions = [[row[1]] if lists else row[1] for row in ROWS]
    columns = {"file": [row[0] for row in ROWS], "captions": captions, "width": [1, 2, 3]}
    columns |= {"group": [row[2] for row in ROWS], "split": [row[3] for row in ROWS]}
    parquet.write_table(arrow.table(columns), path)
    return path


def wanted(folder: Path, *files: str) -> tuple[CaptionedImage, ...]:
    return tuple(CaptionedImage(folder / file, *WANTED[file]) for file in files)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_table(folder / "t.csv"),
        lambda folder: write_table(folder / "t.csv", ("filepath", "title")),
        lambda folder: write_table(folder / "t.csv", ("filepath", "title"), by="\t"),
        lambda folder: write_table(folder / "t.TSV", ("file", "captions"), by="\t"),
        lambda folder: write_parquet(folder / "t.parquet"),
        lambda folder: write_parquet(folder / "t.parquet", lists=True),
    ],
)
def test_rows_of_a_file_are_one_image(folder: Path, write) -> None:
    table = write(folder)
    assert read_captioned_images(table, folder) == wanted(folder, "a.jpg", "b.jpg")
    assert read_captioned_images(table, folder, split="val") == wanted(folder, "b.jpg")


def test_lines_become_images(folder: Path) -> None:
    captions = write_lines(
        folder / "captions.jsonl",
        {"file": "a.jpg", "captions": ["one", "two"], "group": 7, "split": "train"},
        {"file": "a.jpg", "captions": ["three"], "split": "val"},
    )
    first = CaptionedImage(folder / "a.jpg", ("one", "two"), "7")
    second = CaptionedImage(folder / "a.jpg", ("three",), None)
    assert read_captioned_images(captions, folder) == (first, second)
    assert read_captioned_images(captions, folder, split="val") == (second,)


def test_coco_captions_become_images(folder: Path) -> None:
    images = [{"id": 5, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}]
    annotations = [{"image_id": image, "caption": f"says {image}"} for image in (3, 5, 3)]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    assert read_captioned_images(path, folder) == (
        CaptionedImage(folder / "a.jpg", ("says 3", "says 3"), None),
        CaptionedImage(folder / "b.jpg", ("says 5",), None),
    )
    path.write_text(json.dumps({"images": images, "annotations": [{"image_id": 4}]}))
    with pytest.raises(DatasetError, match=r"captions\.json: annotations\[0\]: expected a `capti"):
        read_captioned_images(path, folder)
    path.write_text(json.dumps({"images": 3}))
    with pytest.raises(DatasetError, match="expected COCO's captions"):
        read_captioned_images(path, folder)


def test_real_captions(data_dir: Path) -> None:
    folder = data_dir / "captions"
    val = read_captioned_images(folder / "captions.jsonl", folder, split="val")
    assert len(val) == 200
    assert {len(image.captions) for image in val} == {5}
    assert len(read_captioned_images(folder / "captions.jsonl", folder)) == 1100
    coco = data_dir / "coco_real"
    images = read_captioned_images(coco / "captions_val.json", coco / "val2017")
    assert (len(images), sum(len(image.captions) for image in images)) == (153, 765)


@pytest.mark.parametrize(
    "line",
    [
        *([1], "text", 3),
        {"file": "a.jpg"},
        {"captions": ["a"]},
        {"file": "a.jpg", "captions": []},
        {"file": "a.jpg", "captions": "a cat"},
        {"file": "a.jpg", "captions": ["a cat", 3]},
        {"file": "a.jpg", "captions": ["a cat", " "]},
        {"file": None, "captions": ["a cat"]},
    ],
    ids=str,
)
def test_a_line_that_does_not_fit_is_named(folder: Path, line: object) -> None:
    captions = write_lines(folder / "c.jsonl", {"file": "a.jpg", "captions": ["a"]}, line)
    with pytest.raises(DatasetError, match=re.escape(f"{captions}:2: expected `file`")):
        read_captioned_images(captions, folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,caption\na.jpg,a\n", r"t\.csv:1: expected a column `file`.*found name, caption"),
        ("", r"t\.csv:1: expected a column `file`"),
        ("file,caption\n", "expected one row for each caption, found none"),
        ("file,caption\na.jpg,a\nb.jpg\n", r"t\.csv:3: expected a column"),
        ("file,caption\na.jpg,a,b\n", r"t\.csv:2: expected a column"),
        ("file,caption\na.jpg,  \n", r"t\.csv:2: expected a column.*with text in them"),
        ('file,caption\na.jpg,"a\n', r"t\.csv:1: expected rows of .* on, found: unexpected end"),
        ("file,caption,group\na.jpg,a,x\nb.jpg,b,x\na.jpg,c,y\n", r"t\.csv:4: .*'x'.*csv:2.*'y'"),
        (b"file,caption\na.jpg,\xff\n", "expected text in UTF-8"),
        ("a" * 200_000, r"t\.csv:.: expected rows of a table from here on, found: field larger"),
    ],
)
def test_a_table_that_does_not_fit(folder: Path, text: str | bytes, message: str) -> None:
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=message):
        read_captioned_images(path, folder)


def test_a_file_that_is_no_parquet(folder: Path) -> None:
    (folder / "t.parquet").write_bytes(b"no table")
    with pytest.raises(DatasetError, match=r"t\.parquet: expected a Parquet file, found"):
        read_captioned_images(folder / "t.parquet", folder)


WITHOUT_PYARROW = """
import sys
from pathlib import Path
sys.modules["pyarrow"] = None
from owlkit.data.captions import read_captioned_images
from owlkit.errors import MissingDependencyError
try:
    read_captioned_images(Path(sys.argv[1]), Path())
except MissingDependencyError as error:
    print(error)
"""


def test_what_parquet_needs_is_named(folder: Path) -> None:
    (folder / "t.parquet").touch()
    command = [sys.executable, "-c", WITHOUT_PYARROW, str(folder / "t.parquet")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "needs pyarrow: pip install 'owlkit[train]'" in said


def test_what_is_missing_is_named(folder: Path) -> None:
    captions = folder / "captions.jsonl"
    with pytest.raises(DatasetError, match=r"captions\.jsonl: no such file; data\.captions"):
        read_captioned_images(captions, folder)
    captions.write_text("\n \n")
    with pytest.raises(DatasetError, match="one JSON object a line, found none"):
        read_captioned_images(captions, folder)
    captions.write_text("no json\n")
    with pytest.raises(DatasetError, match="found 'no json'"):
        read_captioned_images(captions, folder)
    files = ("1.jpg", "a.jpg", "2.jpg")
    write_lines(captions, *({"file": file, "captions": ["a"], "split": "x"} for file in files))
    missing = re.escape(str(folder / "1.jpg"))
    with pytest.raises(DatasetError, match=f"2 of 3 images are missing, first {missing}"):
        read_captioned_images(captions, folder)
    with pytest.raises(DatasetError, match=r"jsonl: expected the split 'val', found 'x'$"):
        read_captioned_images(captions, folder, split="val")
    (folder / "captions.yaml").touch()
    with pytest.raises(DatasetError, match=r"ends in \.jsonl, .*; found '\.yaml'"):
        read_captioned_images(folder / "captions.yaml", folder)


def test_a_line_ends_where_json_says(folder: Path) -> None:
    said = "one\u2028two\u2029three\u0085four"
    line = json.dumps({"file": "a.jpg", "captions": [said]}, ensure_ascii=False)
    path = folder / "c.jsonl"
    path.write_text(f"{line}\n[]\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=re.escape(f"{path}:2: expected")):
        read_captioned_images(path, folder)
    path.write_text(line, encoding="utf-8")
    assert read_captioned_images(path, folder)[0].captions == (said,)


def test_a_sign_before_utf8_is_none_of_the_text(folder: Path) -> None:
    lines, coco = folder / "c.jsonl", folder / "c.json"
    lines.write_text('{"file": "a.jpg", "captions": ["a"]}', encoding="utf-8-sig")
    coco.write_text(
        '{"images": [{"id": 1, "file_name": "a.jpg"}],'
        ' "annotations": [{"image_id": 1, "caption": "a"}]}',
        encoding="utf-8-sig",
    )
    wanted = (CaptionedImage(folder / "a.jpg", ("a",), None),)
    assert read_captioned_images(lines, folder) == wanted
    assert read_captioned_images(coco, folder) == wanted


def test_half_a_character_is_named_with_its_line(folder: Path) -> None:
    rows = [{"file": "a.jpg", "captions": [text]} for text in ("a", "a \ud83d")]
    path = write_lines(folder / "c.jsonl", *rows)
    with pytest.raises(DatasetError, match=re.escape(f"{path}:2: expected captions that are text")):
        read_captioned_images(path, folder)
