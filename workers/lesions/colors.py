"""The colour that a lesion is recommended to be shown in."""

from __future__ import annotations

import colorsys

from core.modelspec import LabelSpec

# A tenth of the circle either way: alike enough to be one label's, different enough to tell apart.
_TURNS = (0.0, 0.10, -0.10, 0.05, -0.05)


def color_of(label: LabelSpec, number: int) -> tuple[int, int, int]:
    """The label's colour, its hue turned a little for the second to the fifth lesion, and again.

    sRGB, 0 to 255. A viewer shows neighbours in the report apart; the label can still be told.
    """
    hue, light, saturation = colorsys.rgb_to_hls(*(value / 255 for value in label.color))
    turned = (hue + _TURNS[(number - 1) % len(_TURNS)]) % 1
    red, green, blue = (
        round(255 * value) for value in colorsys.hls_to_rgb(turned, light, saturation)
    )
    return red, green, blue
