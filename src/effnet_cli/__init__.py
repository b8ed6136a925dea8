"""effnet: EfficientNet image classification in a terminal."""

__version__ = "0.1.0"
