"""The one model of the demo."""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from owlkit.errors import CheckpointError
from owlkit.predictor import Predictor

QUICKSTART = Path("runs") / "quickstart"
DEFAULT_MODEL = QUICKSTART / "onnx"
"""Where ``make quickstart`` leaves its detector as ONNX graphs."""


class Model:
    """A predictor that is loaded once, when it is first asked for.

    Args:
        where: Folder or hub id, as :meth:`owlkit.Predictor.from_pretrained` takes it; None for the
            export of the quickstart.
        options: Further keyword arguments of ``from_pretrained``.
    """

    def __init__(self, where: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        self.where = str(DEFAULT_MODEL) if where is None else where
        self._is_default = where is None
        self._options = dict(options or {})
        self._predictor: Predictor | None = None
        self._lock = Lock()

    @property
    def remedy(self) -> str | None:
        """The one command that makes the default model, in Markdown; None if a model is there."""
        if not self._is_default or DEFAULT_MODEL.is_dir():
            return None
        trained = QUICKSTART / "detector" / "best"
        command = (
            f"python tools/export_onnx.py {trained} {DEFAULT_MODEL} --attention"
            if trained.is_dir()
            else "make quickstart"
        )
        return f"There is no model in `{DEFAULT_MODEL}` yet. This command makes it: `{command}`"

    def predictor(self) -> Predictor:
        """The predictor, loaded by the first caller while others wait.

        Raises:
            CheckpointError: If the model is missing or damaged; a later call tries again.
            ConfigError: If an option cannot be used with this kind of model.
            MissingDependencyError: If PyTorch is needed and not installed.
        """
        with self._lock:
            if self._predictor is None:
                if self.remedy:
                    raise CheckpointError(self.remedy)
                self._predictor = Predictor.from_pretrained(self.where, **self._options)
            return self._predictor
