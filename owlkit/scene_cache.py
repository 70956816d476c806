"""Encoded images, found again by their pixels: in memory, and on disk if wished.

Files are safetensors, so that reading them runs no code. Each holds a checksum of its content: one
that was damaged is taken for one that is not there.
"""

import hashlib
import logging
import os
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from owlkit.backend import PatchArrays
from owlkit.errors import ConfigError
from owlkit.whole_file import written_whole

_SUFFIX = ".safetensors"
_CHECKSUM = "checksum"
_REQUIRED = ("class_embeds", "boxes", "logit_shift", "logit_scale")
_OPTIONAL = ("objectness",)
# What the reader raises for a file that is cut off or holds something else.
_DAMAGE = (SafetensorError, OSError, ValueError, TypeError, RuntimeError)
# A file in the making that is older belongs to a process that was killed.
_ABANDONED_SECONDS = 3600

_logger = logging.getLogger(__name__)


def scene_key(image: NDArray[np.uint8], identity: str) -> str:
    """What an encoded image is kept under: 32 hexadecimal digits.

    Args:
        image: The decoded pixels, uint8 [h, w, 3]: the same picture has the same key whatever
            file it came from.
        identity: Of the model, see :class:`owlkit.backend.Backend`.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{identity} {image.dtype} {list(image.shape)}\n".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class SceneCache:
    """Keeps what an image tower made of images; several threads and processes may use it.

    In memory the latest scenes are kept. On disk, where they outlive the process, those that were
    used longest ago are removed when there are too many.

    Args:
        memory: Most scenes in memory, at least 0. One of OWLv2 base takes about 8 MB.
        folder: Where scenes are kept on disk, made if needed; None for memory alone.
        max_bytes: Most bytes on disk, at least 1. Default 10 GiB.

    Raises:
        ConfigError: If a number is out of its range, or the folder cannot be made.
    """

    def __init__(
        self, memory: int = 32, folder: str | Path | None = None, max_bytes: int = 10 << 30
    ) -> None:
        for name, value, least in (("memory", memory, 0), ("max_bytes", max_bytes, 1)):
            if type(value) is not int or value < least:
                raise ConfigError(
                    f"{name}: expected an integer of at least {least}, found {value!r}"
                )
        self.memory = memory
        self.folder = None if folder is None else Path(folder)
        self.max_bytes = max_bytes
        self._scenes: OrderedDict[str, PatchArrays] = OrderedDict()
        self._lock = Lock()
        # Of the files, as far as this process knows; None until it has counted.
        self._bytes: int | None = None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"expected a folder for encoded images, found that {folder} is none: "
                    f"{error.strerror}"
                ) from error

    def get(self, key: str) -> PatchArrays | None:
        """The scene of that key, see :func:`scene_key`, equal to the last bit; None if not kept.

        Its arrays are those of the cache: copy them before changing them.
        """
        with self._lock:
            if key in self._scenes:
                self._scenes.move_to_end(key)
                return self._scenes[key]
        found = None if self.folder is None else _read(self._path(key), key)
        if found is not None:
            self._remember(key, found)
        return found

    def put(self, key: str, scene: PatchArrays) -> None:
        """Keeps a scene; that it cannot be written to disk is logged."""
        self._remember(key, scene)
        if self.folder is None:
            return
        path = self._path(key)
        content = _packed(key, scene)
        if len(content) > self.max_bytes:
            return
        try:
            with written_whole(path) as scratch:
                scratch.write_bytes(content)
            self._count(len(content))
        except OSError as error:
            _logger.warning("going on without keeping an encoded image in %s: %s", path, error)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}{_SUFFIX}"

    def _remember(self, key: str, scene: PatchArrays) -> None:
        with self._lock:
            self._scenes[key] = scene
            self._scenes.move_to_end(key)
            while len(self._scenes) > self.memory:
                self._scenes.popitem(last=False)

    def _count(self, added: int) -> None:
        """Notes a new file, and removes old ones when all are larger than they may be."""
        assert self.folder is not None
        with self._lock:
            if self._bytes is not None:
                self._bytes += added
            if self._bytes is None or self._bytes > self.max_bytes:
                self._bytes = _trim(self.folder, self.max_bytes)


def _trim(folder: Path, most: int) -> int:
    """Removes the files used longest ago until ``most`` bytes are left; returns what is left."""
    files = []
    for entry in os.scandir(folder):
        try:
            status = entry.stat()
            if entry.name.endswith(_SUFFIX):
                files.append((status.st_mtime_ns, entry.path, status.st_size))
            elif (
                entry.name.endswith(".part") and status.st_mtime < time.time() - _ABANDONED_SECONDS
            ):
                os.unlink(entry.path)
        except FileNotFoundError:
            # Another process has removed it.
            continue
    left = sum(size for _, _, size in files)
    for _, path, size in sorted(files):
        if left <= most:
            break
        Path(path).unlink(missing_ok=True)
        left -= size
    return left


def _packed(key: str, scene: PatchArrays) -> bytes:
    arrays = {name: getattr(scene, name) for name in (*_REQUIRED, *_OPTIONAL)}
    whole = {
        name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None
    }
    content: bytes = save(whole, metadata={_CHECKSUM: _checksum(key, whole)})
    return content


def _read(path: Path, key: str) -> PatchArrays | None:
    """What a file holds; None if there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            notes = dict(file.metadata() or {})
            arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}
        _check(arrays)
        if notes.get(_CHECKSUM) != _checksum(key, arrays):
            raise ValueError("the content does not fit its checksum")
    except _DAMAGE as error:
        _logger.warning("a damaged file is taken for none: %s: %s", path, error)
        return None
    # That it was used now decides which files stay; a folder may be another user's.
    with suppress(OSError):
        os.utime(path)
    return PatchArrays(**arrays)


def _check(arrays: dict[str, NDArray[np.float32]]) -> None:
    """Raises ValueError if these are not the arrays of a scene."""
    if set(arrays) - set(_OPTIONAL) != set(_REQUIRED):
        raise ValueError(f"expected {', '.join(_REQUIRED)}; found {', '.join(arrays)}")
    embeds = arrays["class_embeds"]
    count = embeds.shape[:1]
    expected = {"class_embeds": (*count, *embeds.shape[1:2]), "boxes": (*count, 4)}
    for name, array in arrays.items():
        shape = expected.get(name, count)
        if array.dtype != np.float32 or array.shape != shape:
            raise ValueError(
                f"{name}: expected float32 {list(shape)}, found {array.dtype} {list(array.shape)}"
            )


def _checksum(key: str, arrays: dict[str, NDArray[np.float32]]) -> str:
    """A hash of the key and the content, so that a renamed file is none either."""
    digest = hashlib.blake2b(key.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()
