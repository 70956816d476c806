"""A query set as one file: safetensors with a description in JSON.

The description holds everything but vectors and images, and a checksum of all of it; a file that
differs from what was written is refused as a whole. Reading one runs no code.
"""

import hashlib
import json
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from owlkit.calibration import Calibration
from owlkit.errors import CheckpointError, QueryError
from owlkit.queries.combination import Combination
from owlkit.queries.embeddings import EmbeddedExample, EmbeddingTable, ExampleKey
from owlkit.queries.example import Example
from owlkit.queries.query_class import QueryClass
from owlkit.queries.query_set import QuerySet
from owlkit.whole_file import written_whole

FORMAT = "owlkit queries 1"
# One key for all of it, because safetensors writes several in any order.
_KEY = "queries"
# Names of the arrays that are image files begin with this; the digest follows.
_IMAGE = "image."

Images = Literal["memory", "all", "none"]
Arrays = dict[str, NDArray[Any]]

# What the reader raises for a file that is cut off, and what wrong types in a description lead to.
_DAMAGE = (
    *(SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError),
    *(RecursionError, OverflowError, MemoryError, CheckpointError, QueryError),
)


def save_queries(queries: QuerySet, path: Path, *, images: Images) -> None:
    """Writes a query set; see :meth:`QuerySet.save`."""
    if images not in get_args(Images):
        raise QueryError(f"images: expected one of {get_args(Images)}, found {images!r}")
    arrays: Arrays = {}
    content = {
        "ensemble": queries.ensemble,
        "combination": asdict(queries.combination),
        "background": queries.background,
        "choice": queries.choice,
        "classes": [
            _described_class(one, arrays, path.absolute().parent, images) for one in queries.classes
        ],
        "models": [
            _described_table(identity, table, arrays, row)
            for row, (identity, table) in enumerate(queries.embeddings.items())
        ],
    }
    whole = {"format": FORMAT, "checksum": _checksum(content, arrays), "content": content}
    try:
        with written_whole(path) as scratch:
            scratch.write_bytes(save(arrays, metadata={_KEY: json.dumps(whole)}))
    except (OSError, ValueError) as error:
        # A path without a file's name, such as ".", is a ValueError.
        reason = error.strerror if isinstance(error, OSError) else error
        raise QueryError(f"{path}: cannot be written: {reason}") from error


def load_queries(path: Path, *, follow: bool) -> QuerySet:
    """Reads a query set; see :meth:`QuerySet.load`."""
    if not path.is_file():
        raise QueryError(f"{path}: expected a file with a query set, found none")
    try:
        content, arrays = _read(path)
        images = _kept_images(arrays)
        queries = QuerySet(
            [
                _read_class(one, images, path.absolute().parent, follow=follow)
                for one in content["classes"]
            ],
            ensemble=content["ensemble"],
            combination=Combination(**content["combination"]),
            background=content["background"],
            choice=content["choice"],
        )
        texts, examples = set(queries.texts), queries.examples.keys()
        for row, model in enumerate(content["models"]):
            table = queries.table(_string(model["identity"]))
            _read_table(table, model, arrays, row)
            if not (table.texts.keys() <= texts and table.examples.keys() <= examples):
                raise ValueError("found embeddings of what is not asked for")
    except _DAMAGE as error:
        raise QueryError(
            f"{path}: expected a query set, found that it is damaged or none: "
            f"{type(error).__name__}: {error}"
        ) from error
    return queries


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The description and the arrays, if they are what was written."""
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    whole = json.loads(metadata.get(_KEY, "{}"))
    if whole.get("format") != FORMAT:
        raise ValueError(f"expected {FORMAT!r} inside, found {whole.get('format')!r}")
    if whole["checksum"] != _checksum(whole["content"], arrays):
        raise ValueError("the content does not fit its checksum")
    content: dict[str, Any] = whole["content"]
    return content, arrays


def _checksum(content: object, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _described_class(
    one: QueryClass, arrays: Arrays, folder: Path, images: Images
) -> dict[str, Any]:
    def described(examples: Iterable[Example]) -> list[dict[str, Any]]:
        return [_described_example(example, arrays, folder, images) for example in examples]

    return {
        "name": one.name,
        "prompts": one.prompts,
        "examples": described(one.examples),
        "negative_prompts": one.negative_prompts,
        "negative_examples": described(one.negative_examples),
        "threshold": one.threshold,
        "colour": one.colour,
        "calibration": None if one.calibration is None else one.calibration.to_dict(),
        "parent": one.parent,
    }


def _read_class(
    data: Mapping[str, Any], images: Mapping[str, bytes], folder: Path, *, follow: bool
) -> QueryClass:
    read = dict(data)
    for key in ("examples", "negative_examples"):
        read[key] = [_read_example(one, images, folder, follow=follow) for one in data[key]]
    if data["calibration"] is not None:
        read["calibration"] = Calibration.from_dict(data["calibration"])
    return QueryClass(**read)


def _described_example(
    example: Example, arrays: Arrays, folder: Path, images: Images
) -> dict[str, Any]:
    """An example, whose image is named or put among the arrays."""
    image, kept = example.image, f"{_IMAGE}{example.digest}"
    place = None
    if isinstance(image, str):
        place = _place(image, folder)
    wanted = image is not None and (images == "all" or (images == "memory" and place is None))
    if wanted and kept not in arrays:
        arrays[kept] = np.frombuffer(_as_file(example), dtype=np.uint8)
    return {"digest": example.digest, "size": example.size, "box": example.box, "image": place}


def _kept_images(arrays: Arrays) -> dict[str, bytes]:
    """The image files by their digests, each once however many examples lie on it."""
    images = {}
    for name, array in arrays.items():
        if name.startswith(_IMAGE):
            if array.dtype != np.uint8 or array.ndim != 1:
                raise ValueError(f"{name}: expected bytes, found {array.dtype} {array.shape}")
            images[name.removeprefix(_IMAGE)] = array.tobytes()
    return images


def _read_example(
    data: Mapping[str, Any], images: Mapping[str, bytes], folder: Path, *, follow: bool
) -> Example:
    digest, (height, width) = _string(data["digest"]), data["size"]
    place = data["image"]
    image: str | bytes | None = images.get(digest)
    if image is None and place is not None and follow:
        image = _string(place) if "://" in place else str(folder / _string(place))
    sizes = (_integer(height, 1), _integer(width, 1))
    return Example(digest, sizes, None if data["box"] is None else _box(data["box"]), image)


def _place(image: str, folder: Path) -> str:
    """The address or path to write; relative, so that images move with the file beside them."""
    if "://" in image:
        return image
    path = Path(os.path.abspath(image))
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _as_file(example: Example) -> bytes:
    """An image file of the example's image: its own, or one without loss."""
    if isinstance(example.image, bytes):
        return example.image
    if isinstance(example.image, str) and example.digest.startswith("file:"):
        example.pixels()
        return Path(example.image).read_bytes()
    file = BytesIO()
    Image.fromarray(example.pixels()).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _described_table(
    identity: str, table: EmbeddingTable, arrays: Arrays, row: int
) -> dict[str, Any]:
    """What a model made of the sources."""
    for name, vectors in (
        ("texts", [*table.texts.values()]),
        ("examples", [one.vector for one in table.examples.values()]),
    ):
        if vectors:
            arrays[f"{name}.{row}"] = np.stack(vectors).astype(np.float32)
    examples = [
        {
            "key": [key.digest, key.box, key.choice],
            "patch": one.patch,
            "box": one.box,
            "iou": one.iou,
            "objectness": one.objectness,
        }
        for key, one in table.examples.items()
    ]
    return {"identity": identity, "texts": [*table.texts], "examples": examples}


def _read_table(table: EmbeddingTable, data: Mapping[str, Any], arrays: Arrays, row: int) -> None:
    texts = [_string(text) for text in data["texts"]]
    table.texts.update(zip(texts, _vectors(arrays, f"texts.{row}", len(texts)), strict=True))
    vectors = _vectors(arrays, f"examples.{row}", len(data["examples"]))
    for vector, one in zip(vectors, data["examples"], strict=True):
        digest, box, choice = one["key"]
        key = ExampleKey(_string(digest), None if box is None else _box(box), choice)
        table.examples[key] = EmbeddedExample(
            vector=vector,
            patch=_integer(one["patch"], 0),
            box=_box(one["box"]),
            iou=_share(one["iou"]),
            objectness=None if one["objectness"] is None else _share(one["objectness"]),
        )
    widths = {len(one) for one in table.texts.values()}
    widths |= {len(one.vector) for one in table.examples.values()}
    if len(widths) > 1:
        raise ValueError(f"expected embeddings of one width, found {sorted(widths)}")


def _vectors(arrays: Arrays, name: str, count: int) -> Sequence[NDArray[np.float32]]:
    if not count:
        return []
    found = arrays[name]
    if found.dtype != np.float32 or found.ndim != 2 or len(found) != count or not found.size:
        raise ValueError(
            f"{name}: expected float32 [{count}, E], found {found.dtype} {found.shape}"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"{name}: expected finite numbers")
    return list(found)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, found {reprlib.repr(value)}")
    return value


def _integer(value: object, least: int) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"expected an integer of at least {least}, found {reprlib.repr(value)}")
    return value


def _share(value: object) -> float:
    if type(value) is not float or not 0 <= value <= 1:
        raise ValueError(f"expected a number in [0, 1], found {reprlib.repr(value)}")
    return value


def _box(values: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in values)
    if not np.isfinite([x0, y0, x1, y1]).all():
        raise ValueError(f"expected a box of finite numbers, found {reprlib.repr(values)}")
    return x0, y0, x1, y1
