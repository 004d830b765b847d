"""The words, the records and the shelves: only what both node and workers speak."""

__version__ = "0.1.0"
