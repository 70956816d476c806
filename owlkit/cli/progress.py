"""A bar that shows how far a command is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Show = Callable[[int, int | None], None]
"""Called with how much is done, and of how much; None where that is not known."""


@contextmanager
def progress_bar(title: str, unit: str, *, leave: bool = True) -> Iterator[Show]:
    """A bar on a terminal's error output, and nothing elsewhere.

    Args:
        title: What is done.
        unit: Of what is counted.
        leave: Whether the bar stays when it is done.
    """
    with tqdm(disable=None, unit=unit, desc=title, leave=leave) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
