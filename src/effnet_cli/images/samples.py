"""The images that come with effnet."""

from pathlib import Path

FOLDER_NAME = "sample_images"


def sample_images_dir() -> Path:
    """Return the folder of the sample images: in the installed package, else beside `src`."""
    installed = Path(__file__).parents[1] / FOLDER_NAME
    return installed if installed.is_dir() else Path(__file__).parents[3] / FOLDER_NAME
