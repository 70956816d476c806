"""Which files a command reads and writes."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from owlkit.errors import ConfigError, ImageError
from owlkit.whole_file import written_whole

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# File systems take 255 bytes, from which a number, a suffix and the scratch file's name go off.
_LONGEST_STEM = 100
# What Windows does not allow in file names; on other systems the slash is among them.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


def find_sources(images: Iterable[str], out: Path) -> list[str]:
    """Lists the images that a command line names, each once.

    Args:
        images: Files, folders and URLs. Files and URLs stay as they are; a folder stands for the
            images in it, at any depth.
        out: Folder of the results; what lies in it is left out of other folders.

    Raises:
        ImageError: If there are none.
    """
    images = list(images)
    sources: dict[str, str] = {}
    for source in _expand(images, out.resolve()):
        sources.setdefault(source if "://" in source else os.path.abspath(source), source)
    if not sources:
        raise ImageError(
            f"expected images, found none in {', '.join(images)} (what lies in the folder of the "
            f"results, {out}, does not count)"
        )
    return list(sources.values())


def _expand(images: Iterable[str], out: Path) -> Iterator[str]:
    for image in images:
        # Unlike Path.is_dir, this takes URLs longer than a file name may be.
        if not os.path.isdir(image):
            yield image
            continue
        for path in sorted(Path(image).rglob("*")):
            if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file():
                # A link in the folder of the results leads out of it, and is a result all the same.
                places = (path.resolve(), path.parent.resolve())
                if not any(place.is_relative_to(out) for place in places):
                    yield str(path)


def picture_names(sources: Iterable[str]) -> dict[str, str]:
    """A file name for the picture of each source; equal ones from several folders get a number."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        stem, number = _stem(source), 1
        name = f"{stem}.jpg"
        # Some file systems do not tell upper from lower case.
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}.jpg"
        taken.add(name.casefold())
        names[source] = name
    return names


def _stem(source: str) -> str:
    """A name that any file system takes, and that is no hidden file and no parent folder."""
    if "://" in source:
        source = re.split(r"[?#]", source, maxsplit=1)[0]
    # By bytes, because file systems count those; what is not text is dropped.
    clean = _FORBIDDEN.sub("_", Path(source).stem).encode("utf-8", "ignore")[:_LONGEST_STEM]
    return clean.decode("utf-8", "ignore").strip(". ") or "image"


def check_nothing_is_overwritten(sources: Iterable[str], targets: Sequence[Path]) -> None:
    """Raises ImageError if a file to write is one of the sources, by whatever path or link."""
    by_identity = {_identity(source): source for source in sources}
    for target in targets:
        # A target that does not exist yet replaces nothing.
        source = by_identity.get(_identity(target)) if target.exists() else None
        if source is not None:
            raise ImageError(
                f"expected results that replace no source, found that {target} is the image "
                f"{source}; choose another folder for the results"
            )


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and number of a file, or None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def prepare_folder(folder: Path, *, option: str) -> None:
    """Makes a folder for results and sees that files can be written there.

    Args:
        folder: The folder; those above it are made, too.
        option: What the command line calls what goes there.

    Raises:
        ConfigError: If that is not so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option}: expected a folder to write to, found that {folder} is none: "
            f"{error.strerror}"
        ) from error


def prepare_file(path: Path, *, option: str) -> None:
    """Makes the folder of a file to write, and sees that no folder is in its place.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"{option}: expected a file to write, found the folder {path}")
    prepare_folder(path.parent, option=option)


def write_json(path: Path, content: Any) -> None:
    """Writes a file of JSON as a whole or not at all."""
    # File names that are not text hold lone surrogates, which UTF-8 lacks. The form in which they
    # are then written, \udcff, is how JSON itself writes them.
    with (
        written_whole(path) as scratch,
        scratch.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        json.dump(content, file, indent=1, ensure_ascii=False)
