"""Old files of visitors go, those of the page stay."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from page.tidy import sweep, tidying


def test_old_files_go_and_take_their_folders_with_them(tmp_path: Path) -> None:
    old, kept = tmp_path / "a" / "b" / "old.png", tmp_path / "page" / "example.png"
    for path in (old, kept):
        path.parent.mkdir(parents=True)
        path.touch()
    outside = tmp_path.parent / f"{tmp_path.name}.txt"
    outside.touch()
    (tmp_path / "link").symlink_to(outside)
    start = time.time()
    sweep(tmp_path, start - 60)
    assert old.exists()
    sweep(tmp_path, start + 60, frozenset({kept, kept.parent}))
    assert [*tmp_path.rglob("*")] == [kept.parent, kept]
    assert outside.exists()


def test_an_app_is_swept_while_it_lives(tmp_path: Path) -> None:
    page, upload = tmp_path / "page.png", tmp_path / "upload.png"
    page.touch()

    async def live() -> None:
        async with tidying(tmp_path, kept_seconds=0, pause=0.01)(None):
            upload.touch()
            while upload.exists():
                await asyncio.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:  # a browser of other tests has the loop of this thread
        pool.submit(asyncio.run, live()).result(60)
    assert page.exists()
