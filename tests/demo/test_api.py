"""What programs get from the demo is what `Predictor` gives."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from owlkit import Detections, Predictor, QuerySet
from tests.demo.conftest import App

BOX = [40.0, 30.0, 300.0, 250.0]
OTHER_BOX = [10.5, 100.25, 90.0, 230.0]


@pytest.fixture(scope="module")
def client(app: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A program that uses the demo."""
    folder = tmp_path_factory.mktemp("client")
    # Or each request would read all certificates.
    client = Client(app.url, verbose=False, download_files=folder, ssl_verify=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def photographs(data_dir: Path) -> list[Path]:
    """Three of different sizes."""
    return sorted((data_dir / "coco_real").rglob("*.jpg"))[:3]


@pytest.fixture(scope="module")
def threshold(predictor: Predictor, photographs: list[Path]) -> float:
    """One that about half of the boxes reach: those of random models score alike."""
    return float(np.median(predictor.detect(photographs[0], ["cat", "dog"], threshold=0).scores))


def as_json(found: Detections) -> dict[str, Any]:
    """The documented form, written out by hand."""
    assert found.image_size is not None
    return {
        "width": found.image_size[1],
        "height": found.image_size[0],
        "detections": [
            {
                "label": found.names[row],
                "score": float(found.scores[row]),
                "box": [*map(float, box)],
            }
            for row, box in enumerate(found.boxes)
        ],
    }


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def files(paths: list[Path]) -> list[Any]:
    return [handle_file(str(path)) for path in paths]


@pytest.mark.filterwarnings("ignore:.*is cut to the limit")  # the model reads few tokens
@pytest.mark.parametrize("templates", ["none", "ensemble7"])
def test_detect(
    client: Client,
    predictor: Predictor,
    photographs: list[Path],
    threshold: float,
    templates: str,
) -> None:
    answer = client.predict(
        handle_file(str(photographs[0])),
        "cat, dog",
        templates=templates,
        threshold=threshold,
        nms_iou=None,
        boxes=20,
        api_name="/detect",
    )
    queries = QuerySet.from_text(["cat", "dog"], templates=templates)
    found = predictor.detect(photographs[0], queries, threshold=threshold, top_k=20)
    assert len(found) > 1
    assert answer == as_json(found)


def test_detect_like(
    client: Client, predictor: Predictor, photographs: list[Path], threshold: float
) -> None:
    """Two classes, one of them with a negative reference; several targets."""
    first, second, third = map(str, photographs)
    references = [
        {"picture": handle_file(first), "name": "it", "boxes": [BOX, OTHER_BOX]},
        {"picture": handle_file(second), "name": "it", "boxes": [OTHER_BOX], "negative": True},
        {"picture": handle_file(third), "name": "other"},
    ]
    answers = client.predict(files(photographs), references, threshold=0.0, api_name="/detect_like")
    queries = QuerySet()
    queries.add_example("it", first, [BOX, OTHER_BOX])
    queries.add_example("it", second, [OTHER_BOX], negative=True)
    queries.add_example("other", third)
    found = predictor.detect(photographs, queries, threshold=0.0, nms_iou=0.5, top_k=100)
    assert all(len(one) > 0 for one in found)
    assert answers == [as_json(one) for one in found]


def test_queries_travel(
    client: Client, app: App, predictor: Predictor, photographs: list[Path], tmp_path: Path
) -> None:
    """They come back as a file that needs no network, and names no file of the server."""
    references = [{"picture": handle_file(str(photographs[0])), "name": "cat", "boxes": [BOX]}]
    made = client.predict("cat, dog", "photo", references, api_name="/make_queries")
    assert str(app.temporary).encode() not in Path(made).read_bytes()

    client.predict(handle_file(str(photographs[1])), "bird", api_name="/detect")
    passes = app.passes
    answers = client.predict(
        files(photographs[1:2]), handle_file(made), 0.0, api_name="/detect_with"
    )
    assert app.passes == passes

    own = QuerySet()
    own.add_example("cat", photographs[0], [BOX])
    own = own.merged(QuerySet.from_text(["cat", "dog"], templates="photo"))
    found = predictor.detect(photographs[1], own, threshold=0.0, nms_iou=0.5, top_k=100)
    assert answers == [as_json(found)]


def test_own_thresholds(
    client: Client, predictor: Predictor, photographs: list[Path], threshold: float, tmp_path: Path
) -> None:
    queries = QuerySet.from_text(["cat", "dog"])
    queries.update("cat", threshold=threshold)
    queries.update("dog", threshold=1.0)
    queries.save(tmp_path / "own.queries")
    answers = client.predict(
        files(photographs[:1]), handle_file(str(tmp_path / "own.queries")), api_name="/detect_with"
    )
    found = predictor.detect(photographs[0], queries, nms_iou=0.5, top_k=100)
    assert {*found.names} == {"cat"}
    assert answers == [as_json(found)]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"words": ""}, "expected words"),
        ({"words": "a, b ["}, "expected words, found the end"),
        ({"words": ", ".join(map(str, range(1001)))}, "expected at most 1000 classes, found 1001"),
        ({"templates": "mine"}, "no templates are named 'mine'"),
        ({"threshold": 2}, "threshold: Input should be less than or equal to 1"),
        ({"nms_iou": "half"}, "nms_iou: Input should be a valid number"),
        ({"boxes": 0}, "boxes: Input should be greater than or equal to 1"),
        ({"picture": "/etc/hostname"}, "picture: Input should be"),
        ({"picture": {"path": "/etc/hostname"}}, "expected uploaded files alone"),
        ({"words": file_data("https://example.com/a.jpg")}, "expected uploaded files alone"),
    ],
)
def test_faults_are_messages(
    client: Client, photographs: list[Path], changed: dict[str, Any], expected: str
) -> None:
    inputs = {"picture": handle_file(str(photographs[0])), "words": "cat", **changed}
    with pytest.raises(AppError, match=expected.replace("[", r"\[")):
        client.predict(**inputs, api_name="/detect")


def test_references_are_checked(client: Client, photographs: list[Path]) -> None:
    outside = [0, 0, 10_000, 10]
    for boxes, expected in (
        (outside, "0.boxes.0: Input"),
        ([outside], "^0[0-9]*.jpg: expected a box"),
    ):
        reference = {"picture": handle_file(str(photographs[0])), "boxes": boxes}
        with pytest.raises(AppError, match=expected):
            client.predict(files(photographs[:1]), [reference], api_name="/detect_like")


def test_too_many_pictures(client: Client, app: App, photographs: list[Path]) -> None:
    many = files([photographs[0]] * (app.desk.limits.pictures + 1))
    reference = {"picture": handle_file(str(photographs[0]))}
    with pytest.raises(AppError, match="expected at most 20 pictures, found 21"):
        client.predict(many, [reference], api_name="/detect_like")


def test_parts_take_a_bounded_number_of_passes(
    client: Client, app: App, photographs: list[Path]
) -> None:
    """A look at each box, and at each box in it, would be 90,000 otherwise."""
    before, _ = app.passes
    inputs = {"words": "a [b [c]]", "threshold": 0.0, "nms_iou": None, "boxes": 300}
    answer = client.predict(handle_file(str(photographs[2])), **inputs, api_name="/detect")
    assert answer["detections"]
    after, _ = app.passes
    assert 2 < after - before <= 1 + 20 + 20 * 20


def test_documentation(client: Client) -> None:
    """Every endpoint is described; what the page itself calls is not shown."""
    from page.api import Endpoints

    shown = client.view_api(print_info=False, return_format="dict")
    endpoints = shown["named_endpoints"]
    assert shown["unnamed_endpoints"] == {}
    assert {*endpoints} == {"/detect", "/detect_like", "/detect_with", "/make_queries"}
    for name, endpoint in endpoints.items():
        function = getattr(Endpoints, name.removeprefix("/"))
        said = " ".join(inspect.getdoc(function).split())
        assert f'api_name="{name}"' in said
        assert said.startswith(endpoint["description"])
        for parameter in endpoint["parameters"]:
            kind = parameter["python_type"]
            assert kind["type"] not in ("", "Any")
            assert f"{parameter['parameter_name']}: {kind['description']}" in said
            assert kind["description"].endswith(".")
