"""Prompt templates around a name, and the canonical spelling of both. Needs no torch.

A detector finds more when the embedding of a name is the mean over several sentences that contain
it. OWL-ViT [0] trains with the bare name and the 80 sentences that CLIP [1] uses for ImageNet, and
tests with 7 of them.

- [0]: Simple Open-Vocabulary Object Detection, 2022, https://arxiv.org/abs/2205.06230
- [1]: Learning Transferable Visual Models From Natural Language Supervision, 2021,
  https://arxiv.org/abs/2103.00020; lists as published at https://github.com/openai/CLIP
"""

import difflib
import re
from collections.abc import Mapping, Sequence

from owlkit.errors import QueryError

SLOT = "{}"

_CLIP_IMAGENET = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

_CLIP_CIFAR = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a black and white photo of a {}.",
    "a low contrast photo of a {}.",
    "a high contrast photo of a {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a photo of a small {}.",
    "a photo of a big {}.",
    "a photo of the {}.",
    "a blurry photo of the {}.",
    "a black and white photo of the {}.",
    "a low contrast photo of the {}.",
    "a high contrast photo of the {}.",
    "a bad photo of the {}.",
    "a good photo of the {}.",
    "a photo of the small {}.",
    "a photo of the big {}.",
)

# Lists that CLIP published for single data sets, under the name of what is to be seen.
_BY_DOMAIN = {
    "aerial": (  # RESISC45
        "satellite imagery of {}.",
        "aerial imagery of {}.",
        "satellite photo of {}.",
        "aerial photo of {}.",
        "satellite view of {}.",
        "aerial view of {}.",
        "satellite imagery of a {}.",
        "aerial imagery of a {}.",
        "satellite photo of a {}.",
        "aerial photo of a {}.",
        "satellite view of a {}.",
        "aerial view of a {}.",
        "satellite imagery of the {}.",
        "aerial imagery of the {}.",
        "satellite photo of the {}.",
        "aerial photo of the {}.",
        "satellite view of the {}.",
        "aerial view of the {}.",
    ),
    "aircraft": (  # FGVC Aircraft
        "a photo of a {}, a type of aircraft.",
        "a photo of the {}, a type of aircraft.",
    ),
    "birds": ("a photo of a {}, a type of bird.",),  # Birdsnap
    "cars": (  # Stanford Cars
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of my {}.",
        "i love my {}!",
        "a photo of my dirty {}.",
        "a photo of my clean {}.",
        "a photo of my new {}.",
        "a photo of my old {}.",
    ),
    "countries": (  # Country211
        "a photo i took in {}.",
        "a photo i took while visiting {}.",
        "a photo from my home country of {}.",
        "a photo from my visit to {}.",
        "a photo showing the country of {}.",
    ),
    "digits": ('a photo of the number: "{}".',),  # MNIST
    "emotions": (  # FER2013
        "a photo of a {} looking face.",
        "a photo of a face showing the emotion: {}.",
        "a photo of a face looking {}.",
        "a face that looks {}.",
        "they look {}.",
        "look at how {} they are.",
    ),
    "flowers": ("a photo of a {}, a type of flower.",),  # Flowers102
    "food": ("a photo of {}, a type of food.",),  # Food101
    "histopathology": ("this is a photo of {}",),  # PCam
    "objects": (  # Caltech101
        "a photo of a {}.",
        "a painting of a {}.",
        "a plastic {}.",
        "a sculpture of a {}.",
        "a sketch of a {}.",
        "a tattoo of a {}.",
        "a toy {}.",
        "a rendition of a {}.",
        "a embroidered {}.",
        "a cartoon {}.",
        "a {} in a video game.",
        "a plushie {}.",
        "a origami {}.",
        "art of a {}.",
        "graffiti of a {}.",
        "a drawing of a {}.",
        "a doodle of a {}.",
        "a photo of the {}.",
        "a painting of the {}.",
        "the plastic {}.",
        "a sculpture of the {}.",
        "a sketch of the {}.",
        "a tattoo of the {}.",
        "the toy {}.",
        "a rendition of the {}.",
        "the embroidered {}.",
        "the cartoon {}.",
        "the {} in a video game.",
        "the plushie {}.",
        "the origami {}.",
        "art of the {}.",
        "graffiti of the {}.",
        "a drawing of the {}.",
        "a doodle of the {}.",
    ),
    "pets": ("a photo of a {}, a type of pet.",),  # Oxford-IIIT Pets
    "satellite": (  # EuroSAT
        "a centered satellite photo of {}.",
        "a centered satellite photo of a {}.",
        "a centered satellite photo of the {}.",
    ),
    "scenes": ("a photo of a {}.", "a photo of the {}."),  # SUN397, also STL-10
    "textures": (  # DTD
        "a photo of a {} texture.",
        "a photo of a {} pattern.",
        "a photo of a {} thing.",
        "a photo of a {} object.",
        "a photo of the {} texture.",
        "a photo of the {} pattern.",
        "a photo of the {} thing.",
        "a photo of the {} object.",
    ),
    "traffic_signs": (  # GTSRB
        'a zoomed in photo of a "{}" traffic sign.',
        'a centered photo of a "{}" traffic sign.',
        'a close up photo of a "{}" traffic sign.',
    ),
}

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "none": (SLOT,),
    "ensemble7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    "ensemble81": (SLOT, *_CLIP_IMAGENET),
    "photo": ("a photo of a {}.",),
    "cifar": _CLIP_CIFAR,
    **_BY_DOMAIN,
}
"""Named lists: `none` the bare name, `ensemble7` for testing, `ensemble81` for training.

`photo` is CLIP's single sentence, `cifar` its list for CIFAR-10 and CIFAR-100; the others are for
images of one domain, such as `pets`, `food` or `satellite`, and for encoders rather than detectors.
"""

ALIASES: Mapping[str, str] = {
    "birdsnap": "birds",
    "caltech101": "objects",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "country211": "countries",
    "dtd": "textures",
    "eurosat": "satellite",
    "fer2013": "emotions",
    "fgvc_aircraft": "aircraft",
    "flowers102": "flowers",
    "food101": "food",
    "gtsrb": "traffic_signs",
    "mnist": "digits",
    "oxford_pets": "pets",
    "pcam": "histopathology",
    "resisc45": "aerial",
    "stanford_cars": "cars",
    "stl10": "scenes",
    "sun397": "scenes",
}
"""Data sets and the name in `TEMPLATES` of the list that CLIP published for them."""


def canonicalize(text: str) -> str:
    """Returns the spelling in which OWL-ViT was trained: lower case, no punctuation.

    Keeps a-z, 0-9, single hyphens, single spaces, and a `#` in front, which marks a label that
    takes no template; everything else becomes a space. Text without any Latin letter or digit
    becomes empty, so this is not for models of other languages. Applying it twice changes nothing.

    >>> canonicalize("tennis_racket_(big)")
    'tennis racket big'

    Source: OWL-ViT, scenic/projects/owl_vit/preprocessing, 2022,
    https://github.com/google-research/scenic
    """
    text = re.sub(r"[^a-z0-9\-#]+", " ", text.lower()).strip()
    # Only now, when what stands in front is known, can the other markers go.
    text = text[:1] + text[1:].replace("#", "")
    text = re.sub(r"-+", "-", text)
    return re.sub(r" +", " ", text).strip()


def resolve_templates(templates: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the templates meant by a name, by a list of them, or by None (`none`).

    A name is one of `TEMPLATES` or, in any case, of the data sets in `ALIASES`.

    Raises:
        QueryError: The name is not known, the list is empty, or one of its entries is not text
            with exactly one "{}".
    """
    if templates is None:
        return TEMPLATES["none"]
    if isinstance(templates, str):
        return _named(templates)
    templates = tuple(templates)
    if not templates:
        raise QueryError("expected at least one template, found an empty list")
    for row, template in enumerate(templates):
        if not isinstance(template, str) or template.count(SLOT) != 1:
            raise QueryError(
                f"template {row}: expected text with exactly one {SLOT!r}, found {template!r}"
            )
    return templates


def fill(template: str, name: str, *, canonical: bool = False) -> str:
    """Returns the template with the name in its slot; braces in the name stay as they are.

    Args:
        template: Text with exactly one "{}".
        name: What to look for.
        canonical: Canonicalise the filled prompt, as OWL-ViT does in training and testing.

    Raises:
        QueryError: The template has not exactly one slot, or nothing of the name is left after
            canonicalisation, so that the prompt would ask for anything at all.
    """
    if template.count(SLOT) != 1:
        raise QueryError(f"expected a template with exactly one {SLOT!r}, found {template!r}")
    prompt = template.replace(SLOT, name)
    if not canonical:
        return prompt
    if not canonicalize(name).strip("#- "):
        raise QueryError(f"no letter a-z or digit is left of {name!r} after canonicalisation")
    return canonicalize(prompt)


def _named(name: str) -> tuple[str, ...]:
    known = ALIASES.get(name.lower(), name)
    if known in TEMPLATES:
        return TEMPLATES[known]
    if SLOT in name:
        hint = f"pass a list to use it as a template: [{name!r}]"
    else:
        near = difflib.get_close_matches(name, [*TEMPLATES, *ALIASES], n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TEMPLATES)}"
    raise QueryError(f"no templates are named {name!r}; {hint}")
