"""Old files of visitors are deleted while the page is served."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

_PAUSE = 60.0


def tidying(
    folder: Path, kept_seconds: float, pause: float = _PAUSE
) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """A lifespan of an ASGI app that sweeps a folder.

    gradio's own sweeper knows neither what is left of broken uploads nor what the tabs write.

    Args:
        folder: What is in it when the app starts belongs to the page and stays.
        kept_seconds: For how long other files stay after their last change.
        pause: Seconds between two rounds.
    """

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        page = frozenset(folder.rglob("*"))

        async def rounds() -> None:
            while True:
                await asyncio.sleep(pause)
                await asyncio.to_thread(sweep, folder, time.time() - kept_seconds, page)

        task = asyncio.create_task(rounds())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return lifespan


def sweep(folder: Path, before: float, stay: frozenset[Path] = frozenset()) -> None:
    """Deletes files that were changed last before a point in time, and what folders they leave.

    Args:
        folder: Stays itself.
        before: Seconds since the epoch.
        stay: Files and folders that are left alone.
    """
    # Contents before their folders.
    for path in sorted(folder.rglob("*"), reverse=True):
        # Gone already, used just now, or not empty.
        with suppress(OSError):
            if path in stay or path.lstat().st_ctime > before:
                continue
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
