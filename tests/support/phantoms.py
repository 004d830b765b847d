"""Small DICOM studies of every kind, made by code: no patient, and a lesion of known place.

The same call gives the same instances, UIDs included. Every one is valid by its IOD, as far as
dciodvfy can tell; what a variant breaks on purpose is between the instances.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from support.phantoms_base import (
    PATIENTS,
    Grid,
    Lesion,
    Patient,
    Phantom,
    Study,
    grid,
    write,
)
from support.phantoms_enhanced import enhanced_ct, enhanced_mr, enhanced_pet
from support.phantoms_images import cr, dx, every_image, mg, sc, sc_colour, us, xa
from support.phantoms_volumes import CtVariant, ct, mr, pet

__all__ = [
    "ENCODINGS",
    "PATIENTS",
    "CtVariant",
    "Grid",
    "Lesion",
    "Patient",
    "Phantom",
    "Study",
    "cr",
    "ct",
    "dx",
    "encoded",
    "enhanced_ct",
    "enhanced_mr",
    "enhanced_pet",
    "every_image",
    "every_volume",
    "grid",
    "mg",
    "mr",
    "pet",
    "sc",
    "sc_colour",
    "us",
    "write",
    "xa",
]

# Lossless transfer syntaxes that phantoms can be written in.
ENCODINGS = {
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}


def every_volume() -> dict[str, Phantom]:
    """One of each that is a whole volume by itself, by its kind."""
    variants: tuple[CtVariant, ...] = (
        "plain", "signed", "oblique", "gantry tilt", "reversed", "mirrored",
    )  # fmt: skip
    made = [*(ct(variant) for variant in variants), mr(), pet()]
    made += [enhanced_ct(), enhanced_mr(), enhanced_pet()]
    return {phantom.kind: phantom for phantom in made}


def encoded(dataset: Dataset, encoding: str) -> Dataset:
    """A copy of a native little endian instance in one of `ENCODINGS`.

    Raises:
        NotImplementedError: the encoder cannot take such pixels.
    """
    made = deepcopy(dataset)
    syntax = ENCODINGS[encoding]
    if syntax.is_encapsulated:
        made.compress(syntax, generate_instance_uid=False)
    elif not syntax.is_little_endian:
        _swap(made)
    made.file_meta.TransferSyntaxUID = syntax
    return made


def _swap(dataset: Dataset) -> None:
    """Turn 16-bit words round; pydicom writes all else in the other order by itself."""
    for element in dataset:
        if element.VR == "OW":
            element.value = np.frombuffer(element.value, "<u2").byteswap().tobytes()
