"""The tab *Video*: words and examples in short clips."""

import importlib.util
import time
from typing import Any

import gradio as gr

from owlkit.errors import ImageError
from page.clips import ClipAnswer, detect_in_clip
from page.desk import Desk
from page.messages import speaking
from page.panel import Settings, on_model, save_button
from page.session import Session
from page.uploads import Clip
from page.wanted import WORDS_INFO, wanted

_HEADERS = ["name", "boxes", "frames", "objects"]
_NEEDS_AV = "Videos need the package av. This command installs it: `pip install 'owlkit[video]'`"
_MOST_SKIPPED = 30


def build_video_tab(desk: Desk, session: gr.State) -> None:
    """Builds the tab inside the current one.

    Args:
        desk: Answers.
        session: Holds a :class:`~page.session.Session`.
    """
    if importlib.util.find_spec("av") is None:
        gr.Markdown(_NEEDS_AV, elem_id="video-remedy", elem_classes="owl-remedy")
        return
    tracks = importlib.util.find_spec("trackers") is not None
    answer = gr.State(None, time_to_live=desk.limits.kept_seconds)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            clip = Clip(
                label="Video",
                sources=["upload", "webcam"],
                include_audio=True,  # or gradio would cut it off, with a program of its own
                elem_id="video-clip",
            )
            words = gr.Textbox(
                label="Look for",
                info=WORDS_INFO,
                placeholder="a cat, a remote control",
                elem_id="video-words",
                max_lines=4,
            )
            find = gr.Button("Find", variant="primary", elem_id="video-find")
            every = gr.Slider(
                1,
                _MOST_SKIPPED,
                3,
                step=1,
                label="Look at every so many frames",
                info=f"At most {desk.limits.frames} frames of a video are looked at",
                elem_id="video-every",
            )
            track = gr.Checkbox(
                tracks, label="Number the objects", visible=tracks, elem_id="video-track"
            )
            settings = Settings(desk)
        with gr.Column(scale=3, min_width=300):
            shown = gr.Video(
                label="Video with boxes",
                interactive=False,
                buttons=["download"],
                elem_id="video-view",
            )
            summary = gr.HTML("", elem_id="video-summary", elem_classes="owl-summary")
            table = gr.Dataframe(
                headers=_HEADERS if tracks else _HEADERS[:-1],
                datatype=["str", *["number"] * (len(_HEADERS) - (1 if tracks else 2))],
                interactive=False,
                label="What was found",
                elem_id="video-table",
            )
            save_button(desk, "JSON lines", _lines, [answer], elem_id="video-json")

    @speaking
    def look(
        kept: Session,
        path: str | None,
        words: str | None,
        every: float,
        track: bool,
        *values: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  So gradio knows that it is wanted.
    ) -> list[Any]:
        if path is None:
            raise ImageError("choose a video first")
        threshold, own, nms_iou, boxes = values
        queries = wanted(kept, words, desk.limits)
        start = time.perf_counter()
        found = detect_in_clip(
            desk,
            path,
            queries,
            every=int(every),
            track=tracks and bool(track),
            show=lambda done, total: progress((done, total), desc="Looking", unit="frames"),
            threshold=None if own else threshold,
            nms_iou=nms_iou,
            top_k=min(int(boxes), desk.most(queries, desk.limits.pictures)),
        )
        rows = [list(row if tracks else row[:-1]) for row in found.counts]
        seconds = time.perf_counter() - start
        return [found, str(found.video), _summary(found, seconds), rows]

    gr.on(
        [find.click, words.submit],
        look,
        [session, clip, words, every, track, *settings.inputs],
        [answer, shown, summary, table],
        **on_model(desk),
    )


@speaking
def _lines(answer: ClipAnswer | None) -> str:
    """The file that is downloaded."""
    if answer is None:
        raise ImageError("look for something in a video first")
    if not answer.lines.is_file():
        raise ImageError("what was found is not kept any more: look again")
    return str(answer.lines)


def _summary(found: ClipAnswer, seconds: float) -> str:
    count = sum(boxes for _, boxes, *_ in found.counts)
    boxes = "1 box" if count == 1 else f"{count} boxes"
    speed = f"{seconds:.1f} s · {found.frames / seconds:.1f} frames a second"
    return (
        f'<p role="status"><strong>{boxes}</strong> in {found.frames} frames '
        f'<span class="owl-times">{speed}</span></p>'
    )
