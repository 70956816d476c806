"""Memory that a run on a CPU keeps, seen from the system."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from owlkit.engine.kept_memory import kept_memory

BLOCK = 256 << 20
_PAGES = """
import torch
from owlkit.engine.kept_memory import kept_memory
from tests.engine.test_kept_memory import BLOCK, resident

def use():
    torch.ones(BLOCK, dtype=torch.uint8)
    return resident()

before = use()
with kept_memory(torch.device("cpu")):
    inside = use()
after = resident()
print(inside - before, after - before, use() - before)
"""


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_is_kept_inside_and_given_back_after():
    printed = subprocess.run(
        [sys.executable, "-c", _PAGES], check=True, capture_output=True, text=True
    ).stdout
    inside, after, again = map(int, printed.split())
    assert inside > 0.9 * BLOCK
    assert after < 0.1 * BLOCK
    assert again < 0.1 * BLOCK


def test_memory_of_other_devices_and_allocators_is_left_alone(monkeypatch):
    def refuse(name):
        raise AssertionError("no allocator must be asked for")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    with kept_memory(torch.device("meta")):
        pass
    monkeypatch.setattr("sys.platform", "darwin")
    with kept_memory(torch.device("cpu")):
        pass
