"""Places in many pictures as buttons that can be pressed to find more like them."""

import gradio as gr
import numpy as np

from owlkit.cli.find import close_up
from owlkit.patch_index import PatchHit
from page.albums import Hits
from page.limits import Limits
from page.picture import as_picture, as_text
from page.uploads import read_picture

_TEMPLATE = """
{{#if value.length}}
<ul class="owl-hits" aria-label="{{{value.length}}} places">
  {{#each value}}
  <li><button type="button" data-hit="{{{@index}}}" title="Find more like this">
    <img src="{{{this.source}}}" alt="">
    <span>{{{this.text}}}</span>
    <span class="owl-times">{{{this.name}}}</span>
  </button></li>
  {{/each}}
</ul>
{{else}}
<p class="owl-nothing">{{{nothing}}}</p>
{{/if}}
"""
_ON_LOAD = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-hit]");
  if (button) trigger("select", {index: Number(button.dataset.hit)});
});"""


def hits_view(nothing: str, *, label: str, elem_id: str) -> gr.HTML:
    """A place for hits; its event ``select`` tells the index of the one that was pressed.

    Args:
        nothing: What stands there while there are none.
        label: For those who cannot see it.
        elem_id: In the page.
    """
    return gr.HTML(
        value=[],
        nothing=as_text(nothing),
        html_template=_TEMPLATE,
        js_on_load=_ON_LOAD,
        label=label,
        elem_id=elem_id,
        elem_classes="owl-view",
    )


def as_hits(found: Hits, limits: Limits) -> list[dict[str, str]]:
    """Each place with its surroundings, score and file, as the view takes them.

    Raises:
        ImageError: If a picture is not there any more.
    """
    shown: dict[int, dict[str, str]] = {}
    for name in dict.fromkeys(hit.path for hit in found.hits):
        # Each picture is decoded once, and one is in memory at a time.
        image = read_picture(found.files[name], limits)
        for number, hit in enumerate(found.hits):
            if hit.path == name:
                text = f"{hit.score:.2f} {found.names[hit.query]}"
                picture = as_picture(np.asarray(close_up(image, hit.box)), name)
                shown[number] = {**picture, "text": as_text(text)}
    return [shown[number] for number in range(len(found.hits))]


def chosen_hit(event: gr.EventData, found: Hits) -> PatchHit | None:
    """The place that was pressed; None if there is none, whatever it was that arrived."""
    index = event._data.get("index") if isinstance(event._data, dict) else None
    known = type(index) is int and 0 <= index < len(found.hits)
    return found.hits[index] if known else None
