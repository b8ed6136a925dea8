"""Pictures: find them, open them, make them the network's input. One loader for every command."""

from effnet_cli.images.find import Finder, Found, is_picture_content
from effnet_cli.images.loader import PictureLoader

__all__ = ["Finder", "Found", "PictureLoader", "is_picture_content"]
