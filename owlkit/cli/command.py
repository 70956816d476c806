"""One command: its options, and what to do with an error."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from owlkit.errors import OwlkitError


@dataclass(frozen=True)
class Command:
    """A job that a command line starts.

    Attributes:
        summary: One line for the help.
        add_arguments: Declares the options.
        run: Does the job and returns the exit status.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

    def main(self, words: Sequence[str] | None = None, *, program: str | None = None) -> int:
        """Parses the words and runs the job; an owlkit error becomes one message.

        Args:
            words: The command line; None takes it from the process.
            program: What the help calls the command.

        Returns:
            Exit status.
        """
        parser = argparse.ArgumentParser(prog=program, description=self.summary)
        self.add_arguments(parser)
        # Intermixed: options may stand before, between and after `key=value` words.
        options = parser.parse_intermixed_args(words)
        try:
            return self.run(options)
        except OwlkitError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            # The reader has seen enough (`| head`); nothing more may be flushed at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
