"""What a video may come from: a file, a camera, a server."""

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from owlkit.errors import ImageError
from owlkit.video.libraries import import_av

if TYPE_CHECKING:
    from av.container import InputContainer

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .mts .m2ts .wmv .flv .ogv .3gp".split()
)
"""Endings of file names, in lower case, by which a video is known."""

STREAM_TIMEOUT = 20.0
"""Seconds that a server may stay silent."""

# FFmpeg's names of the formats that these files have, and of pictures one behind another.
_CONTAINERS = "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,h264,hevc,gif"
_STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp")
# How FFmpeg names the camera of a number on each system.
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("vfwcap", "{}"),
}


def is_video(source: str) -> bool:
    """Whether a word of a command line means a video: by file name, stream address, or camera.

    A number is a camera, unless a file or a folder has that name.
    """
    if is_stream(source):
        return True
    path = re.split(r"[?#]", source, maxsplit=1)[0] if "://" in source else source
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES or is_camera(source)


def is_camera(source: str) -> bool:
    """Whether a word is the number of a camera."""
    return source.isascii() and source.isdigit() and not os.path.exists(source)


def is_stream(source: str) -> bool:
    """Whether a word is the address of a live stream."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() in _STREAM_SCHEMES


def open_source(source: str, *, max_pixels: int | None = None) -> "InputContainer":
    """Opens a file, the camera of a number, or an address; raises errors of PyAV.

    Args:
        source: See :class:`owlkit.video.Video`.
        max_pixels: Most pixels of a frame that is decoded to learn its form.

    Raises:
        ImageError: If there is no such file, or no way to a camera.
    """
    av = import_av()
    # Titles and other texts in a file may be in any encoding, and are not used.
    options: dict[str, Any] = {"metadata_errors": "replace", "options": {}}
    if max_pixels is not None:
        options["options"]["max_pixels"] = str(max_pixels)
    if is_camera(source):
        if sys.platform not in _CAMERAS:
            raise ImageError(f"camera {source}: expected Linux, macOS or Windows")
        options["format"], pattern = _CAMERAS[sys.platform]
        source = pattern.format(source)
    elif "://" in source:
        options["timeout"] = STREAM_TIMEOUT
    else:
        # A file may be a playlist in disguise; it may make us ask no server, and read no other
        # file.
        options["options"].update(protocol_whitelist="file", format_whitelist=_CONTAINERS)
        if not os.path.isfile(source):
            raise ImageError(f"{source}: expected a video, found no such file")
    container: InputContainer = av.open(source, **options)
    return container
