"""Files that are written as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a file beside ``path`` to write to, which then replaces it; a failure leaves nothing.

    Unlike the files of `tempfile`, it gets the permissions that the user's files usually have.
    """
    # Processes of several machines that share a folder may have one number.
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}.part")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
