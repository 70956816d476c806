"""`owlkit convert`, as a shell would call it."""

import json
import subprocess
import sys
from pathlib import Path

from owlkit.cli import main
from owlkit.data.formats import voc_to_coco

TOOL = Path(__file__).parents[2] / "tools" / "convert_voc.py"


def test_convert_voc(data_dir, tmp_path, capsys):
    out = tmp_path / "val.json"
    words = [str(data_dir / "bccd"), str(out), "--split", "val", "--offset", "0"]
    assert main(["convert", "voc", *words, "--names", "RBC, WBC,Platelets"]) == 0
    names = ["RBC", "WBC", "Platelets"]
    expected = voc_to_coco(data_dir / "bccd", split="val", names=names, offset=0)
    assert json.loads(out.read_text()) == expected
    assert "87 images, 1137 annotations, 3 categories" in capsys.readouterr().out


def test_an_error_leaves_the_old_file(data_dir, tmp_path, capsys):
    out = tmp_path / "val.json"
    out.write_text("old")
    words = [str(data_dir / "bccd"), str(out), "--names", "RBC"]
    assert main(["convert", "voc", *words]) == 1
    assert "expected objects named 'RBC', found 'Platelets'" in capsys.readouterr().err
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_the_folder_of_the_file_is_made(data_dir, tmp_path, capsys):
    out = tmp_path / "new" / "folder" / "val.json"
    assert main(["convert", "voc", str(data_dir / "bccd"), str(out), "--split", "val"]) == 0
    assert out.is_file()
    assert main(["convert", "voc", "/none", str(tmp_path)]) == 1
    assert f"OUT.json: expected a file to write, found the folder {tmp_path}" in (
        capsys.readouterr().err
    )
    assert main(["convert", "voc", "/none", str(out / "a.json")]) == 1
    assert f"OUT.json: expected a folder to write to, found that {out} is none" in (
        capsys.readouterr().err
    )


def test_the_tool_is_the_same_command(data_dir, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((data_dir / "voc" / "Annotations").glob("*.xml"))[:2]:
        (few / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out.json"
    subprocess.run([sys.executable, TOOL, few, out], check=True, capture_output=True)
    assert json.loads(out.read_text()) == voc_to_coco(few)
