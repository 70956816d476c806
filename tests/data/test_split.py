"""Base and novel classes of a data set."""

import json

import pytest

from owlkit.data.coco import read_coco
from owlkit.data.split import ClassSplit, read_split
from owlkit.errors import DatasetError

CLASSES = (["ant", "bee", "cat", "dog"], [2, 3, 5, 7])


def test_open_vocabulary_coco(data_dir):
    file = data_dir / "text" / "ovcoco_48_17.json"
    dataset = read_coco(
        data_dir / "coco_real" / "instances_val.json", data_dir / "coco_real", check="names"
    )
    split = read_split(file, dataset)
    content = json.loads(file.read_text())
    assert (len(split.base), len(split.novel)) == (48, 17)
    for indices, numbers, key in (
        (split.base, split.base_ids, "base"),
        (split.novel, split.novel_ids, "novel"),
    ):
        assert {dataset.names[index] for index in indices} == {
            item["name"] for item in content[key]
        }
        assert list(numbers) == sorted(item["id"] for item in content[key])
    assert split == read_split(file, (dataset.names, dataset.category_ids))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"base": ["dog", "ant"], "novel": ["cat"]}, id="names"),
        pytest.param({"base": [2, 7], "novel": [5]}, id="ids"),
        pytest.param({"base": [{"name": "ant", "id": 99}, {"id": 7}], "novel": [5]}, id="objects"),
        pytest.param({"base": ["ant", 7, "ant"], "novel": ["cat", 5]}, id="mixed and repeated"),
    ],
)
def test_forms(tmp_path, content):
    (tmp_path / "split.json").write_text(json.dumps(content))
    split = read_split(tmp_path / "split.json", CLASSES)
    assert split == ClassSplit(base=(0, 3), novel=(2,), base_ids=(2, 7), novel_ids=(5,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"base": ["ant"]}', "a list of classes in 'novel', found None"),
        ('{"base": ["ant", "cow", 9], "novel": []}', "in 'base', found 2 others: 'cow', 9"),
        ('{"base": ["ant", true, null, {}], "novel": []}', "found 3 others: True, None, None"),
        ('{"base": ["ant", "bee"], "novel": [3]}', "found in base and novel: 'bee'"),
        ("{", "line 1"),
        (None, r"split\.json \(split\): expected a JSON file, found No such file"),
    ],
)
def test_faults(tmp_path, text, message):
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        read_split(path, CLASSES)
    assert str(path) in str(caught.value)
