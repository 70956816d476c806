"""What a user asks an image for, as one thing that can be saved."""

from owlkit.queries.combination import Combination
from owlkit.queries.example import Example
from owlkit.queries.query_class import QueryClass
from owlkit.queries.query_set import Ensemble, QuerySet

__all__ = ["Combination", "Ensemble", "Example", "QueryClass", "QuerySet"]
