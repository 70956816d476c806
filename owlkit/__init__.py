"""owlkit: open-vocabulary object detection with words or example boxes as queries."""

__version__ = "0.1.0"
