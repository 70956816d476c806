"""The demo as a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.demo.conftest import DEMO, free_port


@dataclass(frozen=True)
class Served:
    """A running demo.

    Attributes:
        url: Its address.
        process: It.
        temporary: Where its folder of uploads lies.
        log: What it has written so far.
    """

    url: str
    process: subprocess.Popen[bytes]
    temporary: Path
    log: Path

    @property
    def memory(self) -> int:
        """Resident bytes of the process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        raise AssertionError("the process has no memory")


@contextmanager
def serve(model: Path, folder: Path, *options: str, seconds: float = 120) -> Iterator[Served]:
    """Starts the demo as its users do, and stops it.

    Args:
        model: What it serves.
        folder: Holds its temporary files and its log.
        *options: Further ones of the command line.
        seconds: In which it must answer.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is read from /proc")
    url = f"http://127.0.0.1:{(port := free_port())}"
    log, temporary = folder / "log.txt", folder / "temporary"
    temporary.mkdir()
    command = [sys.executable, DEMO / "app.py", "--model", model, "--port", str(port), *options]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=temporary
        )
    try:
        deadline = time.monotonic() + seconds
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Served(url, process, temporary, log)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/config", timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
