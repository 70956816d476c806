"""PyAV, which is there only where videos are wanted."""

from types import ModuleType

from owlkit.errors import MissingDependencyError


def import_av() -> ModuleType:
    """PyAV, the package ``av``.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "reading and writing videos needs the package av: pip install 'owlkit[video]'"
        ) from error
    return av
