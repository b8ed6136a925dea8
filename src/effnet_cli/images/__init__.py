"""Images: find them, open them, make them the network's input. One loader for every command."""

from effnet_cli.images.finder import Finder, ImageInput, is_image_content
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.views import VIEWS

__all__ = ["VIEWS", "Finder", "ImageInput", "ImageLoader", "is_image_content"]
