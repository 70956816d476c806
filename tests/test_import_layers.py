"""The import rules of the design, as data, and a test that parses every import against them.

A module imports only from lower layers or from its own package. Imports inside functions count;
imports under `if TYPE_CHECKING:` do not run, so they may also name a neighbour in the same layer,
and do not load torch.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

# Lowest first. Names are modules or packages right below owlkit/; `tools` and `demo` are folders
# beside it.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "errors detections geometry resample images postprocess suppression visualize heatmaps"
        " prompts queries structures ops backend runtime patch_choice calibration box_fusion tiling"
        " nested supervision_slicer video tracking labels annotation contact_sheet patch_index"
        " scene_cache whole_file selection box_merging question scene"
        " file_stamp json_file row_fitter attention_map image_passes",
        "config encoders",
        "models losses data",
        "engine evaluation export",
        "build",
        "torch_backend",
        "predictor",
        "cli",
        "__main__",
        "tools demo",
    )
)

# The modules of the lowest layer stand on the same ground and may import one another.
FREE_AMONG_THEMSELVES = LAYERS[0]

# What a module may import of owlkit, where that is less than everything below it.
ONLY = {"config": {"errors"}}

# These run where torch is not installed: no torch, and nothing of owlkit that needs it.
TORCH_FREE = LAYERS[0] - {"structures", "ops"}
# These too, but may reach for torch inside a function, once it is known to be there.
TORCH_FREE_AT_IMPORT = {"predictor", "cli"}
TORCH_STACK = {"torch", "torchvision", "timm", "transformers", "accelerate"}

# Third-party packages that belong to one part of the library.
THIRD_PARTY = {
    "timm": ("owlkit/encoders/*", "owlkit/models/interop*", "tools/benchmark*"),
    "transformers": ("owlkit/encoders/*", "owlkit/models/interop*", "tools/benchmark*"),
    "accelerate": ("owlkit/engine/*", "tools/*"),
    "gradio": ("demo/*",),
    "pycocotools": ("owlkit/data/*", "owlkit/evaluation/*", "tools/benchmarks/*"),
    "faster_coco_eval": ("owlkit/data/*", "owlkit/evaluation/*", "tools/benchmarks/*"),
    "yaml": ("owlkit/config/*",),
    "albumentations": ("owlkit/data/*",),
    "scipy": ("owlkit/losses/*", "owlkit/evaluation/*", "tools/benchmarks/*"),
    "onnx": ("owlkit/export/*",),
}

# The package itself: nothing but the standard library while it is imported.
ROOT = "owlkit/__init__.py"

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("owlkit", "tools", "demo")
_TYPES_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@dataclass(frozen=True)
class Import:
    """One imported name, for example `owlkit.ops.boxes` or `torch.nn`."""

    name: str
    line: int
    runs: bool  # not under `if TYPE_CHECKING:`
    at_import: bool  # runs, and not inside a function

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def part(self) -> str:
        """The module or package right below owlkit, "" for owlkit itself."""
        return [*self.name.split("."), ""][1]


def _layer(part: str) -> int | None:
    return next((level for level, names in enumerate(LAYERS) if part in names), None)


def _names(node: ast.AST, module: str) -> Iterator[str]:
    """Yields the absolute names that one statement imports; `module` is the file's own package."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = module.split(".")[: len(module.split(".")) - (node.level - 1)]
            base = ".".join([*parents, *base.split("." if base else None)])
        if base == "owlkit":
            yield from (f"owlkit.{alias.name}" for alias in node.names)
        else:
            yield base
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value


def _imports(
    node: ast.AST, module: str, *, runs: bool = True, at_import: bool = True
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for name in _names(child, module):
            yield Import(name, child.lineno, runs=runs, at_import=runs and at_import)
        if isinstance(child, ast.If) and ast.unparse(child.test) in _TYPES_ONLY:
            body, orelse = ast.Module(child.body, []), ast.Module(child.orelse, [])
            yield from _imports(body, module, runs=False, at_import=False)
            yield from _imports(orelse, module, runs=runs, at_import=at_import)
        else:
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, module, runs=runs, at_import=at_import and not deferred)


def _edge_fault(part: str, found: Import) -> str | None:
    """Says why a file in `part` may not import this part of owlkit, if so."""
    inside, target = part not in ("tools", "demo"), found.part
    if target == part or target == "__version__" or (not inside and _is_public_name(target)):
        return None
    level, target_level = _layer(part), _layer(target)
    if target_level is None:
        return f"{found.name} is in no layer" if inside or target else None
    same_allowed = part in FREE_AMONG_THEMSELVES or not found.runs
    if level is None or target_level > level or (target_level == level and not same_allowed):
        return f"{part} may not import {target}"
    if target not in ONLY.get(part, {target}):
        return f"{part} may import only {', '.join(sorted(ONLY[part]))} of owlkit, not {target}"
    return None


def _is_public_name(name: str) -> bool:
    """A class that `owlkit/__init__.py` offers, as in `from owlkit import Predictor`."""
    return name[:1].isupper()


def _torch_fault(part: str, found: Import) -> str | None:
    counts = (part in TORCH_FREE and found.runs) or (
        part in TORCH_FREE_AT_IMPORT and found.at_import
    )
    free = TORCH_FREE | TORCH_FREE_AT_IMPORT | {part, "__version__"}
    needs_torch = found.package in TORCH_STACK or (
        found.package == "owlkit" and found.part not in free
    )
    return (
        f"{part} must work without torch, not import {found.name}"
        if counts and needs_torch
        else None
    )


def _faults_of(file: Path, root: Path) -> Iterator[str]:
    path = file.relative_to(root).as_posix()
    package = ".".join(file.relative_to(root).parent.parts)
    names = path.removesuffix(".py").split("/")
    part = names[1] if names[0] == "owlkit" else names[0]
    for found in _imports(ast.parse(file.read_text(encoding="utf-8")), package):
        where = f"{path}:{found.line}: "
        places = THIRD_PARTY.get(found.package)
        if places and not any(fnmatch(path, place) for place in places):
            yield f"{where}{found.package} belongs in {', '.join(places)}"
        if path == ROOT:
            if found.at_import and found.package not in sys.stdlib_module_names:
                yield f"{where}owlkit itself must load only the standard library, not {found.name}"
            continue
        edge = _edge_fault(part, found) if found.package == "owlkit" else None
        fault = edge or _torch_fault(part, found)
        if fault:
            yield where + fault


def find_faults(root: Path) -> list[str]:
    """Returns one line per forbidden import in the folders of a repository."""
    files = [file for folder in FOLDERS for file in sorted((root / folder).rglob("*.py"))]
    assert files, f"no Python files in {root}"
    unknown = [
        f"{file.relative_to(root).as_posix()}: in no layer; add it to LAYERS"
        for file in files
        if file.relative_to(root).parts[0] == "owlkit"
        and file != root / ROOT
        and _layer(file.relative_to(root).parts[1].removesuffix(".py")) is None
    ]
    return unknown + [fault for file in files for fault in _faults_of(file, root)]


def test_no_import_breaks_the_rules() -> None:
    assert find_faults(REPOSITORY) == []


@pytest.mark.parametrize(
    ("path", "code", "fault"),
    [
        ("owlkit/ops/boxes.py", "import owlkit.models", "ops may not import models"),
        ("owlkit/ops/boxes.py", "from owlkit import encoders", "ops may not import encoders"),
        ("owlkit/ops/a/b.py", "from ...models.heads import X", "ops may not import models"),
        ("owlkit/ops/boxes.py", "from .. import engine", "ops may not import engine"),
        ("owlkit/geometry.py", "from .ops import nms", "geometry must work without torch"),
        ("owlkit/geometry.py", "def f():\n    import torch.nn", "geometry must work without torch"),
        ("owlkit/runtime.py", "def f():\n    import owlkit.structures", "without torch"),
        ("owlkit/config/a.py", "from owlkit.prompts import fill", "config may import only errors"),
        ("owlkit/encoders/a.py", "import owlkit.config", "encoders may not import config"),
        (
            "owlkit/models/a.py",
            "def f():\n    import owlkit.losses",
            "models may not import losses",
        ),
        ("owlkit/data/a.py", "from owlkit.models import X", "data may not import models"),
        ("owlkit/engine/a.py", "import owlkit.evaluation.coco", "engine may not import evaluation"),
        ("owlkit/losses/a.py", "import owlkit.build", "losses may not import build"),
        (
            "owlkit/losses/a.py",
            "if TYPE_CHECKING:\n    import owlkit.engine",
            "losses may not import engine",
        ),
        (
            "owlkit/losses/a.py",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import owlkit.models",
            "losses may not import models",
        ),
        ("owlkit/cli/a.py", "from owlkit.build import X", "cli must work without torch"),
        ("owlkit/predictor.py", "import owlkit.torch_backend", "predictor must work without torch"),
        ("owlkit/predictor.py", "from torch import Tensor", "predictor must work without torch"),
        (
            "owlkit/predictor.py",
            "if not TYPE_CHECKING:\n    import torch",
            "must work without torch",
        ),
        ("owlkit/predictor.py", "class A:\n    import torch", "predictor must work without torch"),
        ("owlkit/export/a.py", "import_module('owlkit.build')", "export may not import build"),
        ("owlkit/cli/a.py", "from owlkit.nowhere import x", "owlkit.nowhere is in no layer"),
        ("owlkit/cli/a.py", "from owlkit import Predictor", "owlkit.Predictor is in no layer"),
        ("tools/a.py", "import owlkit.nowhere", "owlkit.nowhere is in no layer"),
        ("owlkit/misc.py", "", "in no layer; add it to LAYERS"),
        ("owlkit/models/a.py", "import transformers.models", "transformers belongs in"),
        ("owlkit/models/a.py", "def f():\n    from timm import x", "timm belongs in"),
        ("tools/train.py", "import timm", "timm belongs in"),
        ("owlkit/build.py", "import accelerate", "accelerate belongs in"),
        ("owlkit/cli/a.py", "import gradio", "gradio belongs in"),
        ("owlkit/engine/a.py", "from pycocotools.coco import COCO", "pycocotools belongs in"),
        ("owlkit/build.py", "import yaml", "yaml belongs in"),
        ("owlkit/engine/a.py", "import scipy.optimize", "scipy belongs in"),
        ("owlkit/runtime.py", "import onnx", "onnx belongs in"),
        ("owlkit/__init__.py", "import numpy", "only the standard library, not numpy"),
        ("owlkit/__init__.py", "from .errors import X", "only the standard library"),
    ],
)
def test_a_forbidden_import_is_caught(tmp_path: Path, path: str, code: str, fault: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(code)
    faults = find_faults(tmp_path)
    assert len(faults) == 1
    assert faults[0].startswith(f"{path}:")
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("owlkit/postprocess.py", "from owlkit.detections import Detections\nimport numpy"),
        ("owlkit/structures.py", "import torch\nfrom owlkit import errors"),
        ("owlkit/backend.py", "if TYPE_CHECKING:\n    import torch\n    import owlkit.structures"),
        ("owlkit/config/loader.py", "import yaml\nfrom owlkit.config.schema import X"),
        ("owlkit/encoders/vit.py", "import timm, torch\nfrom . import positions"),
        ("owlkit/models/interop_hf.py", "import transformers\nfrom ..encoders import X"),
        ("owlkit/models/interop/hf.py", "import transformers"),
        ("owlkit/losses/a.py", "if typing.TYPE_CHECKING:\n    import owlkit.models"),
        ("owlkit/losses/a.py", "import scipy\nimport onnxruntime"),
        ("owlkit/export/a.py", "import onnx\nfrom owlkit import __version__"),
        (
            "owlkit/predictor.py",
            "def f():\n    from owlkit.torch_backend import X\n    import torch",
        ),
        ("owlkit/predictor.py", "import owlkit.runtime"),
        ("owlkit/cli/a.py", "from owlkit.predictor import Predictor"),
        ("owlkit/__init__.py", "import typing\ndef f():\n    import_module('owlkit.predictor')"),
        ("tools/a.py", "import accelerate\nimport owlkit\nfrom owlkit import Predictor, build"),
        ("tools/benchmark.py", "import transformers, timm"),
        ("demo/app.py", "import gradio\nfrom owlkit.predictor import Predictor"),
    ],
)
def test_an_allowed_import_passes(tmp_path: Path, path: str, code: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(code)
    assert find_faults(tmp_path) == []
