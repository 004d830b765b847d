"""Every code that the measurements of a lesion use, in one table.

Where DICOM has a concept, it is taken from PS3.16: CID 7469 to 7472 (intensity, length, area,
volume), CID 7477 (global shape descriptors, scheme IBSI), CID 7464 (derivations). The scheme
"IBSI" is registered in PS3.16 Table 8-1 (UID 1.2.840.10008.2.16.13); its codes are those of the
reference manual, arXiv:1612.07003. What neither has is ours, under `PRIVATE_SCHEME`.
"""

from __future__ import annotations

from core.modelspec import Code

# PS3.16 Section 8: designators that begin with 99 are private. `PRIVATE_MEANINGS` says what the
# codes mean at length.
PRIVATE_SCHEME = "99SENTINODE"


def _code(value: str, scheme: str, meaning: str) -> Code:
    return Code(value=value, scheme=scheme, meaning=meaning)


# Units (UCUM).
MILLIMETRE = _code("mm", "UCUM", "millimeter")
SQUARE_MILLIMETRE = _code("mm2", "UCUM", "square millimeter")
MILLILITRE = _code("mL", "UCUM", "milliliter")
PIXELS = _code("{pixels}", "UCUM", "pixels")
NO_UNITS = _code("1", "UCUM", "no units")
PER_MILLIMETRE = _code("/mm", "UCUM", "per millimeter")
PER_PIXEL = _code("/{pixel}", "UCUM", "per pixel")

# Size: PS3.16 CID 7470, 7471, 7472; the way of counting: CID 7474.
VOLUME = _code("118565006", "SCT", "Volume")
VOXEL_COUNT = _code("126030", "DCM", "Sum of segmented voxel method for volume")
LONG_AXIS = _code("103339001", "SCT", "Long Axis")
SHORT_AXIS = _code("103340004", "SCT", "Short Axis")
SURFACE_AREA = _code("C0JK", "IBSI", "Surface Area of Mesh")
MAXIMUM_3D_DIAMETER = _code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
AREA = _code("42798000", "SCT", "Area")
PERIMETER = _code("131191004", "SCT", "Perimeter")

# Shape: PS3.16 CID 7477.
SPHERICITY = _code("QCFX", "IBSI", "Sphericity")
ELONGATION = _code("Q3CK", "IBSI", "Elongation")
FLATNESS = _code("N17B", "IBSI", "Flatness")
COMPACTNESS_2 = _code("BQWJ", "IBSI", "Compactness 2")
SOLIDITY = _code("R3ER", "IBSI", "Volume Density in Convex Hull")
CIRCULARITY = _code("CIRCULARITY", PRIVATE_SCHEME, "Circularity")
SOLIDITY_2D = _code("SOLIDITY_2D", PRIVATE_SCHEME, "Solidity in the image plane")

# Boundary. The concept of the reading is PS3.16 Annex D's "Margins"; its values are CID 3715.
MARGIN_SHARPNESS = _code("MARGIN_SHARPNESS", PRIVATE_SCHEME, "Margin sharpness")
MARGIN_IRREGULARITY = _code("MARGIN_IRREGULAR", PRIVATE_SCHEME, "Margin irregularity")
MARGINS = _code("111037", "DCM", "Margins")
SMOOTH = _code("82280004", "SCT", "Smooth")
IRREGULAR = _code("49608001", "SCT", "Irregular")

# Density: derivations of PS3.16 CID 7464. That table has no percentiles of the voxels of one
# region (CID 7465's are of a population), so these two are IBSI's own.
MEAN = _code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = _code("386136009", "SCT", "Standard Deviation")
MEDIAN = _code("373099004", "SCT", "Median")
MINIMUM = _code("255605001", "SCT", "Minimum")
MAXIMUM = _code("56851009", "SCT", "Maximum")
PERCENTILE_10 = _code("QG58", "IBSI", "10th Intensity Percentile")
PERCENTILE_90 = _code("8DWT", "IBSI", "90th Intensity Percentile")
CONTRAST = _code("CONTRAST_TO_RIM", PRIVATE_SCHEME, "Contrast to the surrounding rim")

# Uptake: PS3.16 CID 7464 and 7466. TLG is SUVbw (g/mL) times volume (mL), so grams.
PEAK = _code("126031", "DCM", "Peak Value Within ROI")
IBSI_PEAK = _code("0F91", "IBSI", "Global Intensity Peak")
TOTAL_LESION_GLYCOLYSIS = _code("126033", "DCM", "Total Lesion Glycolysis")
GRAM = _code("g", "UCUM", "gram")

# The same by IBSI's intensity-based statistics, as Measurement Method.
IBSI_MEAN = _code("Q4LE", "IBSI", "Mean Intensity")
IBSI_MEDIAN = _code("Y12H", "IBSI", "Median Intensity")
IBSI_MINIMUM = _code("1GSF", "IBSI", "Minimum Intensity")
IBSI_MAXIMUM = _code("84IY", "IBSI", "Maximum Intensity")

# Side: PS3.16 CID 247.
LEFT = _code("7771000", "SCT", "Left")
RIGHT = _code("24028007", "SCT", "Right")

# Where a classifier looked. Zones of the lung: PS3.16 CID 6171; all else is ours.
ACTIVATION_PLACE = _code("ACTIVATION_PLACE", PRIVATE_SCHEME, "Place of highest class activation")
ACTIVATION_SIDE = _code("ACTIVATION_SIDE", PRIVATE_SCHEME, "Side of highest class activation")
LUNG = _code("39607008", "SCT", "Lung")
LUNG_ZONES = (
    _code("281392002", "SCT", "Upper zone of lung"),
    _code("281393007", "SCT", "Middle zone of lung"),
    _code("281394001", "SCT", "Lower zone of lung"),
)
STRUCTURE_THIRDS = (
    _code("UPPER_THIRD", PRIVATE_SCHEME, "Upper third of the outlined structure"),
    _code("MIDDLE_THIRD", PRIVATE_SCHEME, "Middle third of the outlined structure"),
    _code("LOWER_THIRD", PRIVATE_SCHEME, "Lower third of the outlined structure"),
)
IMAGE_THIRDS = (
    _code("UPPER_IMAGE", PRIVATE_SCHEME, "Upper third of the image"),
    _code("MIDDLE_IMAGE", PRIVATE_SCHEME, "Middle third of the image"),
    _code("LOWER_IMAGE", PRIVATE_SCHEME, "Lower third of the image"),
)
OUTSIDE_STRUCTURE = _code("OFF_STRUCTURE", PRIVATE_SCHEME, "Outside the outlined structure")
IN_LESION = _code("IN_LESION", PRIVATE_SCHEME, "Within an outlined lesion")
OFF_LESION = _code("OFF_LESION", PRIVATE_SCHEME, "Outside the outlined lesions")
LEFT_OF_IMAGE = _code("LEFT_OF_IMAGE", PRIVATE_SCHEME, "Left half of the image")
RIGHT_OF_IMAGE = _code("RIGHT_OF_IMAGE", PRIVATE_SCHEME, "Right half of the image")

PRIVATE_MEANINGS = {
    CIRCULARITY: "4 pi area / perimeter squared of a region in one image; a disc has 1",
    SOLIDITY_2D: "area of a region in one image over the area of its convex hull",
    MARGIN_SHARPNESS: "median over the outline of the absolute change of the image values "
    "along the outward normal, per unit of length",
    MARGIN_IRREGULARITY: "1 - convex perimeter / perimeter of the outlines in the image "
    "planes; 0 for every convex outline",
    CONTRAST: "mean of the image values in the lesion minus their mean in a rim of 3 mm "
    "(3 pixels without calibration) around it in the image planes",
    ACTIVATION_PLACE: "where the class activation map of the key image has its greatest sum",
    ACTIVATION_SIDE: "on which side of the patient, or of the image where that is unknown",
    **dict.fromkeys(
        (*STRUCTURE_THIRDS, *IMAGE_THIRDS, OUTSIDE_STRUCTURE, IN_LESION, OFF_LESION),
        "a value of ACTIVATION_PLACE",
    ),
    **dict.fromkeys((LEFT_OF_IMAGE, RIGHT_OF_IMAGE), "a value of ACTIVATION_SIDE"),
}


def per_length(unit: Code, length: Code) -> Code | None:
    """The unit of `unit` per `length`; None where its code would not fit 16 characters."""
    per = PER_MILLIMETRE if length == MILLIMETRE else PER_PIXEL
    if unit.value == NO_UNITS.value:
        return per
    value = unit.value + per.value
    if len(value) > 16:
        return None
    return _code(value, "UCUM", f"{unit.meaning} {per.meaning}"[:64])
