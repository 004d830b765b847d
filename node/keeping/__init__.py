"""Disks that fill, and what may be removed."""
