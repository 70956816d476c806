"""One command: its options, and what to do with an error."""

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from owlkit.errors import OwlkitError


@dataclass(frozen=True)
class Command:
    """A job that a command line starts.

    Attributes:
        summary: One line for the help.
        add_arguments: Declares the options.
        run: Does the job and returns the exit status.
        extra: What of owlkit must be installed for it.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    extra: str = "torch"

    def main(self, words: Sequence[str] | None = None, *, program: str | None = None) -> int:
        """Parses the words and runs the job.

        What a user can put right - an error of owlkit, of the file system, a package that is not
        installed - becomes one message.

        Args:
            words: The command line; None takes it from the process.
            program: What the help calls the command.

        Returns:
            Exit status; 130 after an interrupt, as shells have it, or SIGTERM.
        """
        parser = argparse.ArgumentParser(prog=program, description=self.summary)
        self.add_arguments(parser)
        # Intermixed: options may stand before, between and after `key=value` words.
        options = parser.parse_intermixed_args(words)
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A file name need not be text that the terminal can show.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            with _terminated_as_interrupted():
                return self.run(options)
        except BrokenPipeError:
            # The reader has seen enough (`| head`); nothing more may be flushed at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except (OwlkitError, OSError) as error:
            message = str(error)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("owlkit"):
                raise
            message = f"this command needs {error.name}: pip install 'owlkit[{self.extra}]'"
        print(f"error: {message}", file=sys.stderr)
        return 1


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Lets SIGTERM, by which schedulers end a job, end it as Ctrl-C does: results are kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
