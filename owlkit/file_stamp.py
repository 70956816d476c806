"""By which a file is known to be the one that was read before."""

import os

Stamp = tuple[int, int]


def file_stamp(path: str | os.PathLike[str]) -> Stamp | None:
    """Size in bytes and time of change in nanoseconds of a file; None if it is none."""
    try:
        # Unlike Path.is_file, this takes texts that no file system takes for a name.
        if not os.path.isfile(path):
            return None
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
