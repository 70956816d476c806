"""Videos, cameras and streams: frames in, an H.264 file out, one frame in memory at a time.

Frames are upright uint8 RGB [h, w, 3]; times are seconds since the first frame.
"""

from owlkit.video.reading import Frame, Video, read_frames
from owlkit.video.sources import VIDEO_SUFFIXES, is_camera, is_video
from owlkit.video.writing import VideoWriter

__all__ = [
    "VIDEO_SUFFIXES",
    "Frame",
    "Video",
    "VideoWriter",
    "is_camera",
    "is_video",
    "read_frames",
]
