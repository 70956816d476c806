"""Many clients at a time: all are answered rightly, and the server's memory does not grow."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file

from tests.demo.served import Served, serve

CLIENTS = 8
REQUESTS = 50
FIRST = 20


@pytest.fixture(scope="module")
def served(detector_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(detector_folder, tmp_path_factory.mktemp("load"), "--threads", "1") as served:
        yield served


def questions(photographs: Sequence[Path]) -> list[dict[str, Any]]:
    """Different pictures, words, examples and settings."""
    asked: list[dict[str, Any]] = []
    for number, photograph in enumerate(photographs):
        picture = handle_file(str(photograph))
        reference = {"picture": handle_file(str(photographs[0])), "boxes": [[9, 9, 90, 90]]}
        asked += [
            {"api_name": "/detect", "picture": picture, "words": f"cat, thing {number}"},
            {"api_name": "/detect", "picture": picture, "words": "dog", "threshold": 0.0},
            {"api_name": "/detect_like", "pictures": [picture], "references": [reference]},
        ]
    return asked


def test_load(served: Served, data_dir: Path, tmp_path: Path) -> None:
    asked = questions(sorted((data_dir / "samples").glob("*.jpg"))[:4])
    with ExitStack() as stack:
        options = {
            "verbose": False,
            "download_files": tmp_path,
            "ssl_verify": False,  # or each request would read all certificates
            "httpx_kwargs": {"timeout": 300},
        }
        clients = [
            stack.enter_context(closing(Client(served.url, **options))) for _ in range(CLIENTS)
        ]
        threads = stack.enter_context(ThreadPoolExecutor(CLIENTS))

        def ask(client: Client, numbers: Sequence[int]) -> list[tuple[int, str]]:
            rows = [number % len(asked) for number in numbers]
            return [(row, json.dumps(client.predict(**asked[row]))) for row in rows]

        def ask_all(numbers: range) -> list[tuple[int, str]]:
            parts = [numbers[first::CLIENTS] for first in range(CLIENTS)]
            return [one for part in threads.map(ask, clients, parts) for one in part]

        answers = ask_all(range(FIRST))
        memory = served.memory
        answers += ask_all(range(FIRST, CLIENTS * REQUESTS))
        assert served.memory < 1.05 * memory

    assert len(answers) == CLIENTS * REQUESTS
    # One answer to each question, whoever asks and whenever.
    assert len({*answers}) == len(asked)
