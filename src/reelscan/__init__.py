"""reelscan finds any video, and any moment in it, from a sentence."""

from importlib.metadata import version

__version__ = version("reelscan")
