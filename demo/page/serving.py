"""Starting the page, with everything shut that need not be open."""

import socket
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from owlkit.errors import ConfigError
from page.arrivals import Arrivals
from page.doors import Doors, is_local
from page.limits import Limits
from page.look import CSS, make_theme
from page.tidy import tidying


def serve(page: gr.Blocks, limits: Limits, folder: Path, **options: Any) -> None:
    """Serves a page until it is closed.

    Args:
        page: The page.
        limits: What is taken, checked while it arrives.
        folder: Where gradio keeps uploads, and the tabs what they make.
        **options: ``host``, ``port``, and further arguments of :meth:`gradio.Blocks.launch`.

    Raises:
        ConfigError: If the port is taken, or the host is another machine.
    """
    host, port = options.pop("host"), options.pop("port")
    local = is_local(host) and not options.get("share")
    _check_free(host, port)
    page.launch(
        server_name=host,
        server_port=port,
        max_file_size=limits.upload,
        show_error=False,  # what is not a message stays in the log
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        state_session_capacity=limits.sessions,
        footer_links=["api", "settings"],
        theme=make_theme(),
        css_paths=[CSS],
        app_kwargs={
            "middleware": [
                Middleware(Doors, folder=folder, local=local),
                Middleware(Arrivals, limits=limits, folder=folder),
            ],
            "lifespan": tidying(folder, limits.kept_seconds),
        },
        **options,
    )


def _check_free(host: str, port: int) -> None:
    """The check of gradio names an option that this program has not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}; choose another --host or --port"
        ) from error
