"""Smaller and quicker packages out of a package: pruned, quantised, halved, distilled."""
