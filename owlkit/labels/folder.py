"""A folder of label files that can be written again, and never loses what is not its own."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from owlkit.errors import ConfigError
from owlkit.whole_file import written_whole


@dataclass(frozen=True)
class Link:
    """A file that stands for another one: a link, or a copy where there are no links."""

    target: Path


Content = Iterable[str] | bytes | Link
"""What a file holds: text (written as UTF-8), bytes, or another file."""


class LabelFolder:
    """Writes files, and remembers which, so that the next time the outdated ones can go.

    Args:
        folder: Where the files go.
        record: The list of the files written, one a line.
    """

    def __init__(self, folder: Path, record: Path) -> None:
        self.folder = folder
        self.record = record

    def check_free(self, parts: Iterable[str]) -> None:
        """Sees that files and folders to write are not there yet, or were written here.

        Args:
            parts: Names of files and folders in the folder.

        Raises:
            ConfigError: If one is there that this class did not write.
        """
        own = {_top(name) for name in self._written()}
        for part in parts:
            if part not in own and os.path.lexists(self.folder / part):
                raise ConfigError(
                    f"{self.folder}: expected a folder without {part}, found one that owlkit "
                    "annotate did not write; choose another folder for the results"
                )

    def replace(self, files: Iterable[tuple[str, Content]]) -> None:
        """Writes files, each as a whole, and then removes what an earlier call left beside them.

        What goes are recorded files in those top folders to which something was written now.

        Args:
            files: Names, with slashes, and contents.
        """
        old = self._written()
        new: dict[str, None] = {}
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with self.record.open("a", encoding="utf-8") as record:
            for name, content in files:
                new[name] = None
                # Before the file itself: what is not recorded would later pass for the user's.
                if name not in old:
                    record.write(f"{name}\n")
                    record.flush()
                self._write(name, content)
        tops = {_top(name) for name in new}
        kept = {name: None for name in old if _top(name) not in tops}
        for name in old:
            if name not in new and name not in kept:
                (self.folder / name).unlink(missing_ok=True)
        with written_whole(self.record) as scratch:
            scratch.write_text("".join(f"{name}\n" for name in [*kept, *new]), encoding="utf-8")

    def _written(self) -> dict[str, None]:
        """The files of earlier calls."""
        try:
            lines = self.record.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        # The record decides what is deleted, so nothing outside may be in it.
        return {line: None for line in lines if line and _is_inside(line)}

    def _write(self, name: str, content: Content) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as scratch:
            if isinstance(content, Link):
                _link(scratch, content.target)
            elif isinstance(content, bytes):
                scratch.write_bytes(content)
            else:
                with scratch.open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(content)


def _top(name: str) -> str:
    return name.partition("/")[0]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _link(place: Path, target: Path) -> None:
    """Links from a place to a file, by a relative path, so that both can be moved together."""
    # A link of a folder is followed, the last name is not: it may be a link with a suffix, to a
    # file without.
    real = target.parent.resolve() / target.name
    try:
        place.symlink_to(os.path.relpath(real, place.parent.resolve()))
    except (OSError, ValueError, NotImplementedError):
        shutil.copyfile(real, place)
