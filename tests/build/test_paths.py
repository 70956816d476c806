"""Paths of a configuration."""

from pathlib import Path

import pytest

from owlkit.build.paths import expanded, filled_in
from owlkit.errors import ConfigError


def test_paths_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURES", "/mnt/pictures")
    monkeypatch.setenv("HOME", "/home/me")
    found = [
        expanded(path, key="data.train.images", expected="a folder")
        for path in ("$PICTURES/a", "${PICTURES}s", "~/b", "c/d")
    ]
    assert found == [
        Path("/mnt/pictures/a"),
        Path("/mnt/picturess"),
        Path("/home/me/b"),
        Path("c/d"),
    ]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PICTURES", raising=False)
    with pytest.raises(ConfigError, match=r"^data\.x: \$PICTURES/a names an environment variable"):
        expanded("$PICTURES/a", key="data.x", expected="a folder")
    with pytest.raises(ConfigError, match=r"^data\.x: expected a folder, found nothing"):
        expanded(None, key="data.x", expected="a folder")


def test_hub_ids_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "/mnt/models")
    for text, expected in (
        ("google/owlv2-base-patch16", "google/owlv2-base-patch16"),
        ("random", "random"),
        ("$MODELS/owl", "/mnt/models/owl"),
    ):
        assert filled_in(text, key="model.init_from") == expected
