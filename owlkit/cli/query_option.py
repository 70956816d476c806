"""The option ``--queries``: words, or a file that a query set was saved to."""

import os
from pathlib import Path

from owlkit.errors import QueryError
from owlkit.prompts import TEMPLATES
from owlkit.queries import QuerySet
from owlkit.queries.syntax import parse_words

QUERIES_HELP = 'what to find: "cat, remote control", "face [nose, eye]", or a saved query file'
TEMPLATES_HELP = "prompts that words are put into (default none)"

# What `QuerySet.save` is usually given; a word that ends so is a file that is not there.
_SUFFIX = ".queries"


def read_queries(text: str, templates: str = "none") -> QuerySet:
    """What the option ``--queries`` asks for.

    Args:
        text: Words as :func:`owlkit.queries.syntax.parse_words` takes them, or the path of a file.
            What exists as a file is one.
        templates: Name of the prompt templates that words are put into.

    Raises:
        QueryError: If there are no words, the file cannot be read, or templates are asked for
            although the file has its prompts already.
    """
    # Unlike Path.is_file, this takes words longer than a file name may be.
    if os.path.isfile(text):
        if TEMPLATES[templates] != TEMPLATES["none"]:
            raise QueryError(f"--templates: expected none, because {text} already has its prompts")
        return QuerySet.load(Path(text))
    if text.strip().endswith(_SUFFIX):
        raise QueryError(f"--queries: expected words or a file, found no such file: {text}")
    if not text.strip(", \t\r\n"):
        raise QueryError(f"--queries: expected words, found {text!r}")
    return parse_words(text, templates=templates)
