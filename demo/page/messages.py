"""What people read when something cannot be done: a sentence, never a trace."""

import logging
import re
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import ParamSpec, TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from owlkit.errors import CheckpointError, ImageError, OwlkitError, QueryError, TokenError

_log = logging.getLogger("owlkit.demo")
# What a visitor can put right. Other errors of owlkit may name files of the server.
_FAULTS_OF_VISITORS = (ImageError, QueryError, TokenError)
_LONGEST = 500

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def speaking(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Turns the errors of owlkit into messages on the page, and of the API."""

    @wraps(function)
    def spoken(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return function(*args, **options)
        except _FAULTS_OF_VISITORS as error:
            raise message(str(error)) from error
        except OwlkitError as error:
            _log.error("a request failed: %s: %s", type(error).__name__, error)
            hint = str(error) if isinstance(error, CheckpointError) else "see the server's log"
            raise message(f"The model cannot answer: {hint}") from error

    return spoken


def message(text: str) -> gr.Error:
    """An error that is shown as text, without the folders of the server; the log gets no trace."""
    # gradio keeps each upload in a folder of its own.
    text = re.sub(rf"{re.escape(get_upload_folder())}/(?:[^/\s]+/)*", "", text)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    # The page takes it for HTML.
    return gr.Error(escape(shown, quote=False), title="That did not work", print_exception=False)
