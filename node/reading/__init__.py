"""Data sets read from the outside in, in bounded memory: elements, identity, digest."""
