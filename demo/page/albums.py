"""Many pictures that are searched: what the model sees in each is kept on disk."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock

from owlkit.cli.find import search_index, update_index
from owlkit.cli.progress import Show
from owlkit.errors import ImageError, QueryError
from owlkit.file_stamp import Stamp
from owlkit.patch_index import PatchHit
from owlkit.queries import QuerySet
from page.desk import Desk
from page.limits import Limits
from page.uploads import PICTURE_TYPES, file_name, picture_size

_ROOM = 8  # Albums on disk at a time.
_PATCHES = 300  # Kept of a picture where the model says which are best; one takes 2.5 kB.
_PER_PICTURE = 3  # Hits.


@dataclass(frozen=True)
class Hits:
    """What a search has found.

    Attributes:
        hits: Best first.
        names: Of the classes.
        files: Of all pictures that were searched, by the names that the hits know.
        encoded: How many of them the network had not seen before.
        unreadable: Names of files that are no pictures, or too large.
    """

    hits: tuple[PatchHit, ...]
    names: tuple[str, ...]
    files: Mapping[str, Path]
    encoded: int
    unreadable: tuple[str, ...]


class Album:
    """Pictures to search; the network sees each once, however often they are searched.

    May be used from several threads.

    Args:
        desk: Its model looks at the pictures.
        stamp: Tells whether a file is as it was; see :func:`owlkit.patch_index.update_patch_index`.
    """

    def __init__(self, desk: Desk, stamp: Callable[[Path], Stamp | None]) -> None:
        self._desk = desk
        self._stamp = stamp
        self._folder = Path(tempfile.mkdtemp(dir=desk.folder, prefix="album-"))
        self._names: set[str] = set()
        self._lock = Lock()

    def search(
        self, files: Mapping[str, Path], queries: QuerySet, *, most: int, show: Show
    ) -> Hits:
        """Finds the places that fit best; pictures that are new are looked at first.

        Args:
            files: The pictures by their names.
            queries: What to look for.
            most: Places, at least 1.
            show: Called with the number of pictures done, and of those to do.

        Raises:
            ImageError: If there is no picture that can be read, or there are too many.
            QueryError: If the queries cannot be used.
        """
        desk, predictor = self._desk, self._desk.model.predictor()
        _check(files, queries, desk.limits.searched)
        # First, because it is quick and may fail.
        predictor.embed(queries)
        pictures = {name: path for name, path in files.items() if _is_picture(path, desk.limits)}
        if not pictures:
            raise ImageError(f"expected pictures, found none among {len(files)} files")
        with self._lock:
            if self._names.isdisjoint(pictures):
                # An index does not take to other pictures altogether.
                self._empty()
            index, changes = update_index(
                self._folder,
                predictor,
                pictures,
                patches_per_image=None if self._names else self._patches(*pictures.values()),
                stamp=self._stamp,
                show=show,
            )
            self._names = set(pictures)
            found = search_index(index, predictor, queries, top=most, per_image=_PER_PICTURE)
        damaged = {name for name, path in pictures.items() if str(path) in changes.unreadable}
        return Hits(
            hits=tuple(found),
            names=queries.names,
            files=pictures,
            encoded=changes.encoded,
            unreadable=tuple(sorted({*files} - {*pictures} | damaged)),
        )

    def close(self) -> None:
        """Deletes what is on disk; a later search makes it again."""
        with self._lock:
            self._empty()

    def _empty(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._names = set()

    def _patches(self, *pictures: Path) -> int | None:
        """How many patches of a picture are kept; None for all, where the model cannot choose."""
        for path in pictures:
            try:
                scene = self._desk.scene(str(path))
            except ImageError:  # behind a good header
                continue
            known = self._desk.model.predictor().patches(scene).objectness
            return None if known is None else _PATCHES
        return None


class Shelf:
    """Albums in use; of too many, the one that was used longest ago loses what is on disk."""

    def __init__(self) -> None:
        self._albums: list[Album] = []
        self._lock = Lock()

    def use(self, album: Album) -> None:
        """Notes that an album is used."""
        with self._lock:
            self._albums = [*(one for one in self._albums if one is not album), album]
            late, self._albums = self._albums[:-_ROOM], self._albums[-_ROOM:]
        for one in late:
            one.close()

    def drop(self, album: Album | None) -> None:
        """Forgets an album, if there is one, and deletes what it has on disk."""
        if album is not None:
            with self._lock:
                self._albums = [one for one in self._albums if one is not album]
            album.close()


def uploads_by_name(paths: Iterable[str]) -> dict[str, Path]:
    """Uploaded files by their names; of equal ones the later get a number."""
    found: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        name, number = file_name(path), 1
        while name in found:
            number += 1
            name = f"{file_name(path)} ({number})"
        found[name] = Path(path)
    return found


def upload_stamp(path: Path) -> Stamp | None:
    """Tells uploads apart by their paths, which name their content; gradio changes their times."""
    digest = hashlib.blake2b(os.fsencode(path), digest_size=14).digest()
    half = len(digest) // 2
    return int.from_bytes(digest[:half]), int.from_bytes(digest[half:])


def pictures_below(folder: Path, most: int) -> dict[str, Path]:
    """Pictures of a folder, at any depth, by their paths below it, with slashes.

    Args:
        folder: Links that lead out of it are not followed.
        most: The first so many, by name.
    """
    root = folder.resolve()
    found = (
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in PICTURE_TYPES
        and path.is_file()
        and path.resolve().is_relative_to(root)
    )
    return {path.relative_to(root).as_posix(): path for path in islice(found, most)}


def _check(files: Mapping[str, Path], queries: QuerySet, most: int) -> None:
    if not files:
        raise ImageError("choose pictures to search first")
    if len(files) > most:
        raise ImageError(f"expected at most {most} pictures, found {len(files)}")
    parts = [one.name for one in queries.classes if one.parent is not None]
    if parts:
        raise QueryError(f"expected no parts of other things, found {parts[0]!r}")


def _is_picture(path: Path, limits: Limits) -> bool:
    try:
        picture_size(path, limits)
    except ImageError:
        return False
    return True
