"""Of the tab *Explore*: a search in many pictures, by words or by an example."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from owlkit.errors import QueryError
from owlkit.file_stamp import file_stamp
from owlkit.queries import QueryClass, QuerySet
from page.albums import Album, Hits, Shelf, pictures_below, upload_stamp, uploads_by_name
from page.desk import Desk
from page.drawing import board_with, drawing_board, read_board
from page.examples import read_examples
from page.hits import as_hits, chosen_hit, hits_view
from page.limits import Limits
from page.messages import speaking
from page.panel import PRIVATE, on_model, on_question
from page.picture import as_text
from page.session import Session
from page.uploads import PICTURE_TYPES, Files, FolderButton, file_name, picture_input, read_picture
from page.wanted import WORDS_INFO, wanted

_FILES = "Pictures to search"
_FILES_OR_SHARED = "Pictures to search, or none for this server's"
_NOTHING = "The places that fit best will show here. Press one to find more like it."
_MOST = 60


def build_search(desk: Desk, session: gr.State, folder: Path | None) -> None:
    """Builds the part inside the current tab.

    Args:
        desk: Its model looks at the pictures.
        session: Holds a :class:`~page.session.Session`.
        folder: Of pictures that all visitors may search; None if there is none.
    """
    search = Search(desk, folder)
    album = gr.State(None, time_to_live=desk.limits.kept_seconds, delete_callback=search.drop)
    found = gr.State(None, time_to_live=desk.limits.kept_seconds)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            files = Files(
                label=_FILES if folder is None else _FILES_OR_SHARED,
                file_count="multiple",
                file_types=PICTURE_TYPES,
                elem_id="search-files",
                height=160,
            )
            folder_button = FolderButton(
                "Add a folder of pictures",
                file_count="directory",
                size="sm",
                elem_id="search-folder",
            )
            # The browser leaves other files out; to say so earlier is a warning of gradio.
            folder_button.file_types = PICTURE_TYPES
            words = gr.Textbox(
                label="Words",
                info=WORDS_INFO,
                placeholder="a cat",
                elem_id="search-words",
                max_lines=4,
            )
            with gr.Accordion("Or show what to look for", open=False):
                picture = picture_input("Picture that shows it", "search-picture", height=160)
                board = drawing_board("search-board")
            most = gr.Slider(1, _MOST, 24, step=1, label="Most places", elem_id="search-most")
            find = gr.Button("Search", variant="primary", elem_id="search-find")
        with gr.Column(scale=3, min_width=300):
            summary = gr.HTML("", elem_id="search-summary", elem_classes="owl-summary")
            view = hits_view(_NOTHING, label="What was found", elem_id="search-view")

    picture.change(speaking(lambda path: board_with(path, desk.limits)), picture, board, **PRIVATE)
    folder_button.upload(
        lambda some, more: [*(some or ()), *(more or ())], [files, folder_button], files, **PRIVATE
    )
    answer = [album, found, view, summary]
    gr.on(
        [find.click, words.submit],
        search.find,
        [album, session, files, words, picture, board, most],
        answer,
        **on_question(desk),
    )
    view.select(search.find_more, [found, most], answer[1:], **on_model(desk))


class Search:
    """Answers the part's listeners.

    Args:
        desk: Its model looks at the pictures.
        folder: Of pictures that all visitors may search; None if there is none.
    """

    def __init__(self, desk: Desk, folder: Path | None) -> None:
        self._desk = desk
        self._folder = folder
        self._shared = Album(desk, file_stamp)
        self._shelf = Shelf()

    def drop(self, album: Album | None) -> None:
        """Forgets what a visitor has left."""
        self._shelf.drop(album)

    @speaking
    def find(
        self,
        album: Album | None,
        kept: Session,
        paths: Sequence[str] | None,
        words: str | None,
        path: str | None,
        drawn: Any,
        most: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  So gradio knows that it is wanted.
    ) -> list[Any]:
        """Searches by words, by boxes on a picture, or by all that the session looks for.

        Returns:
            The visitor's album, what was found and in which album, and what shows it.
        """
        limits = self._desk.limits
        if path is not None and not (words or "").strip():
            queries = _like(path, drawn, limits)
        else:
            queries = wanted(kept, words, limits)
        if not paths and self._folder is not None:
            files = pictures_below(self._folder, limits.searched)
            return [album, *self._answer(self._shared, files, queries, most, progress)]
        album = album or Album(self._desk, upload_stamp)
        files = uploads_by_name(paths or ())
        return [album, *self._answer(album, files, queries, most, progress)]

    @speaking
    def find_more(
        self, found: tuple[Album, Hits] | None, most: float, event: gr.EventData
    ) -> list[Any]:
        """Searches the same pictures by the place that was pressed."""
        hit = chosen_hit(event, found[1]) if found else None
        if found is None or hit is None:
            raise QueryError("search first, and then press a place")
        album, hits = found
        queries = QuerySet()
        pixels = read_picture(hits.files[hit.path], self._desk.limits)
        queries.add_example(f"like {file_name(hit.path)}", pixels, [hit.box])
        return self._answer(album, hits.files, queries, most)

    def _answer(
        self,
        album: Album,
        files: Mapping[str, Path],
        queries: QuerySet,
        most: float,
        progress: Callable[..., Any] = lambda *_, **__: None,
    ) -> list[Any]:
        def show(done: int, total: int | None) -> None:
            progress((done, total), desc="Looking at new pictures", unit="pictures")

        start = time.perf_counter()
        self._shelf.use(album)
        hits = album.search(files, queries, most=int(most), show=show)
        summary = _summary(hits, time.perf_counter() - start)
        return [(album, hits), as_hits(hits, self._desk.limits), summary]


def _like(path: str, drawn: Any, limits: Limits) -> QuerySet:
    """The boxes of the board as a query, or what stands out most if there are none."""
    boxes = read_board(drawn, limits)
    positive = read_examples(path, boxes.positive or None, limits)
    negative = read_examples(path, boxes.negative, limits)
    name = f"like {file_name(path)}"
    return QuerySet([QueryClass(name, examples=positive, negative_examples=negative)])


def _summary(found: Hits, seconds: float) -> str:
    places = "1 place" if len(found.hits) == 1 else f"{len(found.hits)} places"
    pictures = f"{len(found.files)} pictures, {found.encoded} new"
    lost = f"; cannot be read: {', '.join(found.unreadable[:5])}" if found.unreadable else ""
    more = " and others" if len(found.unreadable) > 5 else ""
    return (
        f'<p role="status"><strong>{places}</strong> in {pictures}{as_text(lost)}{more} '
        f'<span class="owl-times">{1000 * seconds:.0f} ms</span></p>'
    )
