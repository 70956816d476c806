"""What gradio is told through the environment, before it is imported."""

from pathlib import Path


def gradio_environment(folder: Path | str) -> dict[str, str]:
    """Variables to set.

    Args:
        folder: Holds uploads, and what is made of them.
    """
    return {
        "GRADIO_TEMP_DIR": str(folder),
        # Nothing is told to others, and nothing counted at home: gradio would make a table of the
        # last 10,000 requests after each of them.
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ANALYTICS_MAX_EVENTS": "1",
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(1 << 62),
    }
