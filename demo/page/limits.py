"""What the demo takes from strangers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The most that is taken; what is above gets a message at once.

    Attributes:
        upload: Bytes of a file.
        request: Bytes of several files that arrive together.
        message: Bytes of any other request.
        spare: Bytes of the disk that uploads leave free.
        pixels: Of an image, checked in its header before it is decoded.
        classes: Of a query set.
        texts: Prompts of a query set.
        examples: Boxes of a query set that show what to look for.
        boxes: Of an answer, the best ones.
        looks: At boxes that may have parts, for one answer.
        pictures: That one request may ask about.
        searched: Pictures of one search.
        frames: Of a video that are looked at.
        frame_pixels: Of a frame, checked before it is decoded.
        workers: Requests that the model answers at a time.
        waiting: Requests that wait; more are refused.
        sessions: Visitors whose queries and answers are kept.
        kept_seconds: For which files and sessions are kept after their last use.
    """

    upload: int = 50 << 20
    request: int = 500 << 20
    message: int = 1 << 20
    spare: int = 1 << 30
    pixels: int = 50_000_000
    classes: int = 1000
    texts: int = 4000
    examples: int = 100
    boxes: int = 300
    looks: int = 400
    pictures: int = 20
    searched: int = 500
    frames: int = 300
    frame_pixels: int = 3840 * 2160
    workers: int = 2
    waiting: int = 64
    sessions: int = 100
    kept_seconds: int = 3600
