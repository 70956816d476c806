"""What a visitor looks for in a tab that has a box for words and nothing else."""

from owlkit.errors import QueryError
from owlkit.queries import QuerySet
from owlkit.queries.syntax import parse_words
from page.limits import Limits
from page.session import Session
from page.uploads import checked_queries

WORDS_INFO = "Names separated by commas; leave it empty to use what the other tabs look for"


def wanted(session: Session, words: str | None, limits: Limits) -> QuerySet:
    """The words of a box; where it is empty, all that the visitor has asked for so far.

    Raises:
        QueryError: If there is neither, or it is more than allowed.
    """
    queries = parse_words(words) if words and words.strip() else session.queries
    if not len(queries):
        raise QueryError("say what to look for first")
    return checked_queries(queries, limits)
