"""tgsr: training of image-restoration networks that serve many real-world degradations at once."""

__version__ = "0.1.0"
