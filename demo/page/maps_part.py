"""Of the tab *Explore*: heat maps of words, and of the model's attention."""

from functools import partial
from typing import Any

import gradio as gr

from owlkit.errors import ImageError
from page.desk import Desk
from page.maps import Maps
from page.messages import speaking
from page.panel import LATEST, on_question
from page.picture import picture_view
from page.session import Session
from page.uploads import picture_input
from page.wanted import WORDS_INFO, wanted

_MEAN = "Mean of all heads"
_NOTHING = "Colours will show here where words fit, or where the model looks."


def build_maps(desk: Desk, session: gr.State) -> None:
    """Builds the part inside the current tab.

    Args:
        desk: Encodes pictures.
        session: Holds a :class:`~page.session.Session`.
    """
    maps = Maps(desk)
    # What is shown, as a function of whether it is smooth.
    shown = gr.State(None, time_to_live=desk.limits.kept_seconds)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input("Picture", "maps-picture")
            words = gr.Textbox(
                label="Words",
                info=WORDS_INFO,
                placeholder="a cat, a remote control",
                elem_id="maps-words",
                lines=1,
                max_lines=4,
            )
            fit = gr.Button("Where words fit", variant="primary", elem_id="maps-fit")
            look = gr.Button("Where the model looks", elem_id="maps-look")
            head = gr.Dropdown(
                [_MEAN], value=_MEAN, label="Attention head", elem_id="maps-head", interactive=True
            )
            smooth = gr.Checkbox(True, label="Smooth", elem_id="maps-smooth")
        with gr.Column(scale=3, min_width=300):
            view = picture_view(_NOTHING, label="Maps", elem_id="maps-view")

    @speaking
    def show_again(draw: Any, smooth: bool) -> Any:
        return gr.skip() if draw is None else _view(draw(smooth=bool(smooth)))

    again = smooth.input(show_again, [shown, smooth], view, show_progress="hidden", **LATEST)
    # The old maps, drawn again, must not come after the new ones.
    question = {**on_question(desk), "cancels": [again]}

    @speaking
    def show_fit(kept: Session, path: str | None, text: str | None, smooth: bool) -> list[Any]:
        draw = partial(maps.of_words, _picture(path), wanted(kept, text, desk.limits))
        return [draw, _view(draw(smooth=bool(smooth)))]

    gr.on(
        [fit.click, words.submit],
        show_fit,
        [session, picture, words, smooth],
        [shown, view],
        **question,
    )

    @speaking
    def show_look(path: str | None, chosen: object, smooth: bool) -> list[Any]:
        path = _picture(path)
        heads = [_MEAN, *(f"Head {number + 1}" for number in range(maps.heads(path)))]
        which = heads.index(chosen) if chosen in heads else 0
        draw = partial(maps.of_attention, path, head=which - 1 if which else None)
        return [draw, _view(draw(smooth=bool(smooth))), gr.Dropdown(heads, value=heads[which])]

    gr.on(
        [look.click, head.input],
        show_look,
        [picture, head, smooth],
        [shown, view, head],
        **question,
    )


def _picture(path: str | None) -> str:
    if path is None:
        raise ImageError("choose a picture first")
    return path


def _view(pictures: list[dict[str, str]]) -> gr.HTML:
    """The pictures in the view, without boxes."""
    return gr.HTML(value=[""] * len(pictures), pictures=pictures)
