"""Class activation maps that a worker kept as tiles of one PNG (`workers/results/heat.py`)."""

from __future__ import annotations

import json
from io import BytesIO

from PIL import Image

from core.errors import DecodeError

MOST_PIXELS = 50_000_000


def places_of(png: bytes) -> dict[str, list[int]]:
    """Left, top, columns and rows of each image's tile.

    Raises:
        DecodeError: it is none of ours.
    """
    try:
        with Image.open(BytesIO(png), formats=["PNG"]) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise DecodeError("the activation maps are too large to be drawn")
            said = picture.info.get("maps")
        places = json.loads(said) if isinstance(said, str) else None
    except (OSError, ValueError, SyntaxError) as error:
        raise DecodeError(f"the activation maps cannot be read: {error}") from error
    if not isinstance(places, dict):
        raise DecodeError("the picture does not say what its activation maps lie on")
    return places
