"""Typed errors: one clear message that says what was expected, what was found and where."""


class OwlkitError(Exception):
    """Base of every error that owlkit raises for bad input."""


class ImageError(OwlkitError):
    """A file, URL or array that cannot be read as an image."""


class QueryError(OwlkitError):
    """A query that the model cannot answer: empty, wrongly shaped or made by another model."""


class ConfigError(OwlkitError):
    """One or more faults in a configuration file or its overrides; lists all of them."""


class CheckpointError(OwlkitError):
    """A model folder that is missing, damaged, from another version, or does not fit."""


class DetectionsError(OwlkitError, ValueError):
    """Boxes, scores and labels that do not form a valid set of detections."""


class BoxError(OwlkitError, ValueError):
    """Boxes of the wrong shape, or arguments that a box operation cannot use."""


class TokenError(OwlkitError, ValueError):
    """Token ids from which no sentence vector can be taken."""


class InputSizeError(OwlkitError, ValueError):
    """An image size that the backbone cannot take."""


class DatasetError(OwlkitError, ValueError):
    """Annotations or files of a data set that cannot be used; counts and lists what is wrong."""


class TrainingError(OwlkitError, RuntimeError):
    """A run that cannot go on: a loss that is not finite, too many unreadable images."""


class MissingDependencyError(OwlkitError, ImportError):
    """An optional package is needed; the message names the command that installs it."""


class QueryWarning(UserWarning):
    """A query that can be answered, but not as well as it might be."""
