"""What an object says of lossy compression that its source images went through."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from core.errors import DecodeError
from workers.images.attributes import numbers, texts

_RATIO = "LossyImageCompressionRatio"
_METHOD = "LossyImageCompressionMethod"
_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")  # PS3.5 Table 6.2-1, VR CS


def write_lossy(made: Dataset, sources: Iterable[Dataset]) -> None:
    """Say in `made` whether one of `sources` was lossy compressed once, and how.

    What was lossy once stays so (PS3.3 C.7.6.1.1.5, C.8.20.2.2). Ratio and method are those of
    the lossy image that says most of them; one that breaks its own representation is left out,
    as an unknown one is: it must not cost the result.
    """
    lossy = [dataset for dataset in sources if "01" in _texts(dataset, "LossyImageCompression")]
    made.LossyImageCompression = "01" if lossy else "00"
    said = max((_said(dataset) for dataset in lossy), key=len, default={})
    for keyword, values in said.items():
        setattr(made, keyword, values)


def _said(dataset: Dataset) -> dict[str, list[str]]:
    """Ratio and method of a lossy image, where they are legal."""
    found: dict[str, list[str]] = {}
    with suppress(DecodeError):
        ratios = numbers(dataset, _RATIO) or ()
        if ratios and min(ratios) > 0:
            found[_RATIO] = [format_number_as_ds(ratio) for ratio in ratios]
    methods = _texts(dataset, _METHOD)
    if methods and all(map(_CODE_STRING.fullmatch, methods)):
        found[_METHOD] = list(methods)
    return found


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    with suppress(DecodeError):
        return texts(dataset, keyword)
    return ()
