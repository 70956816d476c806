"""Files that say which captions an image has: JSON lines, tables, COCO's JSON."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owlkit.errors import DatasetError, MissingDependencyError

_FILE_COLUMNS = ("file", "filepath")
_CAPTION_COLUMNS = ("captions", "caption", "title")
# With or without the sign that some programs put before UTF-8.
_ENCODING = "utf-8-sig"
_EXPECTED_COLUMNS = "a column `file` (or `filepath`) and one `caption` (or `captions`, `title`)"


@dataclass(frozen=True)
class CaptionedImage:
    """An image and what is said about it.

    Attributes:
        path: The image.
        captions: Its texts, at least one.
        group: What it shares with its look-alikes; None if the file does not say.
    """

    path: Path
    captions: tuple[str, ...]
    group: str | None


@dataclass(frozen=True)
class _Record:
    """What one line, row or annotation says; ``where`` is its place for messages."""

    where: str
    file: str
    captions: tuple[str, ...]
    group: str | None
    split: str | None


def read_captioned_images(
    captions: Path, images: Path, *, split: str | None = None
) -> tuple[CaptionedImage, ...]:
    """Reads a captions file.

    * ``.jsonl``: one JSON object a line, with ``file``, ``captions`` (a list of texts) and, where
      known, ``group`` and ``split``. Each line is an image.
    * ``.csv``, ``.tsv``, ``.parquet``: the same columns. A row of CSV or TSV has one caption, a row
      of Parquet one or a list; the rows of a file name are one image. open_clip's names,
      ``filepath`` and ``title``, and its tab-separated ``.csv`` are understood, too.
    * ``.json``: COCO's captions, ``images`` and ``annotations``.

    Args:
        captions: The file.
        images: Folder that ``file`` is relative to.
        split: Only what has this value as ``split``; None for all.

    Returns:
        The images in the order of the file.

    Raises:
        DatasetError: If a file is missing or a line does not fit; says which.
        MissingDependencyError: If reading Parquet needs a package that is not installed.
    """
    if not captions.is_file():
        raise DatasetError(
            f"{captions}: no such file; data.captions expects JSON lines with `file` and "
            "`captions`, a table (.csv, .tsv, .parquet) or COCO's captions (.json)"
        )
    read = _READERS.get(captions.suffix.lower())
    if read is None:
        raise DatasetError(
            f"{captions}: expected a name that ends in {', '.join(_READERS)}; "
            f"found {captions.suffix!r}"
        )
    try:
        records = [_checked(record) for record in read(captions)]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{captions}: expected text in UTF-8, found {error}") from error
    if not records:
        raise DatasetError(f"{captions}: expected {_CONTENTS[captions.suffix.lower()]}, found none")
    if split is not None:
        records = _of_split(records, split, captions)
    found = _as_images(records, images, join=captions.suffix.lower() != ".jsonl")
    _check_files(found, captions)
    return found


def _checked(record: _Record) -> _Record:
    """Refuses what JSON can hold though it is no text: halves of characters."""
    for text in record.captions:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DatasetError(
                f"{record.where}: expected captions that are text, found half of a character (a "
                f"lone surrogate) in {ascii(text)[:80]}"
            ) from error
    return record


def _of_split(records: Iterable[_Record], split: str, captions: Path) -> list[_Record]:
    counts = Counter(record.split for record in records)
    if not counts[split]:
        names = ", ".join(sorted(repr(name) for name in counts if name is not None))
        raise DatasetError(
            f"{captions}: expected the split {split!r}, found {names or 'no `split` at all'}"
        )
    return [record for record in records if record.split == split]


def _as_images(
    records: Iterable[_Record], folder: Path, *, join: bool
) -> tuple[CaptionedImage, ...]:
    """One image for each record or, where they are joined, for each file name."""
    if not join:
        return tuple(
            CaptionedImage(folder / record.file, record.captions, record.group)
            for record in records
        )
    joined: dict[str, list[_Record]] = {}
    for record in records:
        same = joined.setdefault(record.file, [])
        if same and same[0].group != record.group:
            raise DatasetError(
                f"{record.where}: expected the group {same[0].group!r} as in {same[0].where}, "
                f"found {record.group!r}, both of {record.file}"
            )
        same.append(record)
    return tuple(
        CaptionedImage(
            folder / file, tuple(text for one in same for text in one.captions), same[0].group
        )
        for file, same in joined.items()
    )


def _check_files(images: tuple[CaptionedImage, ...], captions: Path) -> None:
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise DatasetError(
            f"{captions}: {len(missing)} of {len(images)} images are missing, first {missing[0]}"
        )


def _read_json_lines(path: Path) -> Iterator[_Record]:
    # Not `splitlines`: it also ends lines where JSON does not, as at U+2028.
    with path.open(encoding=_ENCODING) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse_line(line.rstrip("\n"), where=f"{path}:{number}")


def _parse_line(line: str, *, where: str) -> _Record:
    try:
        row: Any = json.loads(line)
        file, captions = row["file"], row["captions"]
        group, split = row.get("group"), row.get("split")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{where}: expected `file` and `captions`, found {line[:80]!r}"
        ) from error
    if not isinstance(file, str) or not isinstance(captions, list) or not _are_texts(captions):
        raise DatasetError(f"{where}: expected `file` as text and `captions` as a list of texts")
    return _Record(where, file, tuple(captions), _text_or_none(group), _text_or_none(split))


def _read_table(path: Path) -> Iterator[_Record]:
    # newline="": line breaks inside quotes belong to the caption.
    with path.open(encoding=_ENCODING, newline="") as file:
        header = file.readline()
        file.seek(0)
        tabs = path.suffix.lower() == ".tsv" or ("\t" in header and "," not in header)
        reader = csv.DictReader(file, delimiter="\t" if tabs else ",", strict=True)
        try:
            columns = _columns(reader.fieldnames or (), where=f"{path}:1")
            for row in reader:
                yield _parse_row(row, columns, where=f"{path}:{reader.line_num}")
        except csv.Error as error:
            raise DatasetError(
                f"{path}:{reader.line_num}: expected rows of a table from here on, found: {error}"
            ) from error


def _columns(names: Iterable[str], *, where: str) -> tuple[str, str]:
    """The names of the columns of files and of captions."""
    names = list(names)
    file = next((name for name in _FILE_COLUMNS if name in names), None)
    caption = next((name for name in _CAPTION_COLUMNS if name in names), None)
    if file is None or caption is None:
        raise DatasetError(f"{where}: expected {_EXPECTED_COLUMNS}, found {', '.join(names)}")
    return file, caption


def _parse_row(row: Mapping[Any, Any], columns: tuple[str, str], *, where: str) -> _Record:
    file, captions = (row[column] for column in columns)
    texts = [captions] if isinstance(captions, str) else captions
    # A row that is too long has its rest under None, one that is too short has None as values.
    if None in row or not isinstance(file, str) or not file or not _are_texts(texts):
        raise DatasetError(
            f"{where}: expected {_EXPECTED_COLUMNS} with text in them, found {str(dict(row))[:80]}"
        )
    group, split = (_text_or_none(row.get(name)) for name in ("group", "split"))
    return _Record(where, file, tuple(texts), group, split)


def _read_parquet(path: Path) -> Iterator[_Record]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading Parquet needs pyarrow: pip install 'owlkit[train]'"
        ) from error
    try:
        table = parquet.ParquetFile(path)
        columns = _columns(table.schema_arrow.names, where=str(path))
        wanted = [name for name in table.schema_arrow.names if name in (*columns, "group", "split")]
        number = 0
        for batch in table.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield _parse_row(row, columns, where=f"{path}: row {number}")
    except (ArrowException, OSError) as error:
        raise DatasetError(f"{path}: expected a Parquet file, found: {error}") from error


def _read_coco(path: Path) -> Iterator[_Record]:
    try:
        content: Any = json.loads(path.read_text(encoding=_ENCODING))
        files = {image["id"]: image["file_name"] for image in content["images"]}
        annotations = list(content["annotations"])
    except UnicodeDecodeError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: expected COCO's captions, `images` (`id`, `file_name`) and `annotations` "
            f"(`image_id`, `caption`); found a fault at {error}"
        ) from error
    for number, annotation in enumerate(annotations):
        where = f"{path}: annotations[{number}]"
        try:
            row = {"file": files[annotation["image_id"]], "caption": annotation["caption"]}
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{where}: expected a `caption` and the `image_id` of one of the images, "
                f"found {str(annotation)[:80]}"
            ) from error
        yield _parse_row(row, ("file", "caption"), where=where)


def _are_texts(captions: Any) -> bool:
    """Whether this is a list of texts, none of them blank."""
    return (
        isinstance(captions, list)
        and bool(captions)
        and all(isinstance(text, str) and text.strip() for text in captions)
    )


def _text_or_none(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


_READERS = {
    ".jsonl": _read_json_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
    ".json": _read_coco,
}
_CONTENTS = {
    ".jsonl": "one JSON object a line",
    ".csv": "one row for each caption",
    ".tsv": "one row for each caption",
    ".parquet": "one row for each image or caption",
    ".json": "captions under `annotations`",
}
