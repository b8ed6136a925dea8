"""Pictures: find them, open them, make them the network's input. One loader for every command."""

from effnet_cli.images.finder import Finder, Found, is_picture_content
from effnet_cli.images.loader import PictureLoader
from effnet_cli.images.views import VIEWS

__all__ = ["VIEWS", "Finder", "Found", "PictureLoader", "is_picture_content"]
