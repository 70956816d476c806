"""Every patch of a folder of images on disk: "find more like this" without a network."""

from owlkit.patch_index.index import PatchHit, PatchIndex
from owlkit.patch_index.shards import ImagePatches
from owlkit.patch_index.update import EncodeImages, PatchIndexChanges, update_patch_index

__all__ = [
    "EncodeImages",
    "ImagePatches",
    "PatchHit",
    "PatchIndex",
    "PatchIndexChanges",
    "update_patch_index",
]
