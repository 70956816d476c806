"""Label files that are written again, and files of the user's beside them."""

from pathlib import Path

import pytest

from owlkit.errors import ConfigError
from owlkit.labels import LabelFolder, Link, unique_stems


def files_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "written.txt"
    )


@pytest.fixture
def labels(tmp_path: Path) -> LabelFolder:
    return LabelFolder(tmp_path / "out", tmp_path / "out" / "progress" / "written.txt")


def test_outdated_files_go_and_others_stay(labels: LabelFolder) -> None:
    labels.replace([("labels/a.txt", ["1\n"]), ("labels/b.txt", ["2\n"]), ("all.json", b"{}")])
    (labels.folder / "labels" / "mine.txt").write_text("by hand")
    labels.replace([("labels/b.txt", ["3\n"]), ("labels/c.txt", ["4\n"])])
    assert files_in(labels.folder) == ["all.json", *(f"labels/{x}.txt" for x in ("b", "c", "mine"))]
    assert (labels.folder / "labels" / "b.txt").read_text() == "3\n"
    labels.replace([("all.json", b"[]"), ("labels/b.txt", [])])
    assert files_in(labels.folder) == ["all.json", "labels/b.txt", "labels/mine.txt"]


def test_an_interrupted_call_is_tidied_by_the_next(labels: LabelFolder) -> None:
    def broken():
        yield "labels/a.txt", ["1\n"]
        yield "labels/b.txt", (1 / 0 for _ in "x")

    with pytest.raises(ZeroDivisionError):
        labels.replace(broken())
    assert files_in(labels.folder) == ["labels/a.txt"], "nothing half-written"
    labels.check_free(["labels"])
    labels.replace([("labels/c.txt", ["1\n"])])
    assert files_in(labels.folder) == ["labels/c.txt"]


def test_labels_of_others_are_not_touched(labels: LabelFolder) -> None:
    (labels.folder / "labels").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"folder without labels, found one .* did not write"):
        labels.check_free(["data.yaml", "labels"])


def test_a_record_deletes_nothing_outside(labels: LabelFolder, tmp_path: Path) -> None:
    outside = tmp_path / "precious.txt"
    outside.write_text("")
    labels.record.parent.mkdir(parents=True)
    labels.record.write_text(f"labels/../../precious.txt\n{outside}\n")
    labels.replace([("labels/a.txt", []), (".dot", b"")])
    assert outside.exists()


def test_a_link_leads_to_its_file_after_both_moved(labels: LabelFolder, tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "a.jpg"
    picture.parent.mkdir()
    picture.write_text("content")
    labels.replace([("images/a.jpg", Link(picture))])
    assert picture.read_text() == (labels.folder / "images" / "a.jpg").read_text()
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert (moved / "out" / "images" / "a.jpg").read_text() == "content"
    moved.rename(tmp_path)


def test_stems_are_unique_and_plain() -> None:
    names = [
        "a/x.jpg",
        "b/X.png",
        "x-2.gif",
        "x.bmp",
        "..jpg",
        "caf\udce9 1.jpg",
        "猫" * 90 + ".jpg",
    ]
    stems = unique_stems(names)
    assert list(stems) == names
    folded = [stem.casefold() for stem in stems.values()]
    assert len(set(folded)) == len(names)
    assert [stems[name] for name in names[:4]] == ["x", "X-2", "x-2-2", "x-3"]
    assert all(" " not in stem and len(stem.encode()) < 110 for stem in stems.values())
