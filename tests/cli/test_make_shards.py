"""The command that writes shards, as a shell would call it."""

import json
from pathlib import Path

import pytest

from owlkit.cli import make_shards
from owlkit.cli.command import Command
from owlkit.data.shard_reading import read_shard

COMMAND = Command(make_shards.SUMMARY, make_shards.add_arguments, make_shards.run, extra="train")


@pytest.fixture
def words(data_dir: Path, tmp_path: Path) -> list[str]:
    """Six real pictures, two of them for validation."""
    lines = (data_dir / "captions" / "captions.jsonl").read_text().splitlines()[:6]
    rows = [
        {**json.loads(line), "split": "val" if n < 2 else "train"} for n, line in enumerate(lines)
    ]
    captions = tmp_path / "captions.jsonl"
    captions.write_text("\n".join(map(json.dumps, rows)))
    return [str(captions), str(data_dir / "captions"), str(tmp_path / "out")]


def test_shards_are_written(words, tmp_path, capsys):
    assert COMMAND.main([*words, "--per-shard", "3", "--split", "train"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 4 images in 2 shards\n"
    counts = {
        path.name: len(list(read_shard(str(path)))) for path in (tmp_path / "out").glob("*.tar")
    }
    assert counts == {"shard-000000.tar": 3, "shard-000001.tar": 1}
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == counts


def test_unreadable_images_are_named(words, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with open(words[0], "a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({"file": str(broken), "captions": ["nothing"]}))
    assert COMMAND.main(words) == 1
    assert "found 1 of 7 that cannot; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert COMMAND.main([*words, "--skip-unreadable"]) == 0
    said = capsys.readouterr().out
    assert f"left out: {broken}" in said
    assert "6 images in 1 shards, 1 left out" in said
