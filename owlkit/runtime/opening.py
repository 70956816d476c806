"""An exported folder, opened with the options of any model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from owlkit.errors import ConfigError
from owlkit.runtime.backend import OnnxBackend
from owlkit.runtime.session import Provider, device_provider


@dataclass(frozen=True)
class ModelOptions:
    """Options of :meth:`owlkit.Predictor.from_pretrained`, as an exported folder takes them.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``, which stands for a provider; None leaves it open.
        precision: Must be float32, which here says nothing: the graphs have their own.
        convention: Must be None: the graphs have their own.
        providers: See :class:`owlkit.runtime.session.SessionOptions`; instead of a device.
        threads: Of the CPU; None for one per core.
    """

    device: str | None = None
    precision: str = "float32"
    convention: str | None = None
    providers: Sequence[Provider] | None = None
    threads: int | None = None


def open_exported(folder: str | Path, options: ModelOptions) -> OnnxBackend:
    """Opens an exported folder.

    Args:
        folder: The exported folder.
        options: How it runs.

    Raises:
        CheckpointError: If the folder is damaged.
        ConfigError: If an option cannot be used with an exported folder.
    """
    for name, found, default in (
        ("precision", options.precision, "float32"),
        ("convention", options.convention, None),
    ):
        if found != default:
            raise ConfigError(
                f"{name}: expected none, because {folder} was exported with one, found {found!r}; "
                "choose it when you export"
            )
    providers = options.providers
    if options.device is not None:
        if providers is not None:
            raise ConfigError(
                f"expected a device or providers, found both: {options.device!r} and "
                f"{list(providers)}"
            )
        providers = [device_provider(options.device)]
    return OnnxBackend(folder, providers=providers, threads=options.threads)
