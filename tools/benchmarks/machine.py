"""What the measurements were made on and with."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.floor import rates

_PACKAGES = (
    *("owlkit", "torch", "timm", "transformers", "open_clip_torch", "pycocotools"),
    *("faster-coco-eval", "onnxruntime", "numpy", "opencv-python-headless"),
)


def describe_machine() -> str:
    """Hardware with its measured rates, and versions, as a paragraph."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return (
        f"{_device()}, {torch.get_num_threads()} threads, {platform.machine()}; {rates()}. "
        f"Python {platform.python_version()}, {versions}."
    )


def _device() -> str:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 2**30
        return f"{properties.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    return f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "CPU")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
