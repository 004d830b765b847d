"""What pixel values are, and in which unit: every code that the images can get.

Codes of PS3.16 CID 7180 and 7469 (quantities) and CID 83, 84, 85, 7181 (units).
"""

from __future__ import annotations

from core.modelspec import Code

ATTENUATION = Code(value="112031", scheme="DCM", meaning="Attenuation Coefficient")
SUV = Code(value="126400", scheme="DCM", meaning="Standardized Uptake Value")
SUV_BW = Code(value="126401", scheme="DCM", meaning="SUVbw")
SUV_LBM = Code(value="126402", scheme="DCM", meaning="SUVlbm")
SUV_BSA = Code(value="126403", scheme="DCM", meaning="SUVbsa")
SUV_IBW = Code(value="126404", scheme="DCM", meaning="SUVibw")
ADC = Code(value="113041", scheme="DCM", meaning="Apparent Diffusion Coefficient")
MR_SIGNAL = Code(value="110852", scheme="DCM", meaning="MR signal intensity")
ECHOGENICITY = Code(value="110849", scheme="DCM", meaning="Echogenicity")
X_RAY = Code(value="110850", scheme="DCM", meaning="X-Ray Attenuation")
TOMOGRAPHIC_ACTIVITY = Code(
    value="110821", scheme="DCM", meaning="Nuclear Medicine Tomographic Activity"
)
PROJECTED_ACTIVITY = Code(
    value="110820", scheme="DCM", meaning="Nuclear Medicine Projection Activity"
)
ANY_QUANTITY = Code(value="246205007", scheme="SCT", meaning="Quantity")
LUMINANCE = Code(value="110837", scheme="DCM", meaning="YBR FULL Y Component")


def _ucum(value: str, meaning: str) -> Code:
    return Code(value=value, scheme="UCUM", meaning=meaning)


NO_UNITS = _ucum("1", "no units")
HOUNSFIELD = _ucum("[hnsf'U]", "Hounsfield unit")
G_ML_BW = _ucum("g/ml{SUVbw}", "Standardized Uptake Value body weight")
BQ_ML = _ucum("Bq/ml", "Becquerels/milliliter")

# Units (0054,1001) → quantity and unit (PS3.3 C.8.9.1.1.3).
PET_UNITS: dict[str, tuple[Code, Code]] = {
    "BQML": (TOMOGRAPHIC_ACTIVITY, BQ_ML),
    "CNTS": (TOMOGRAPHIC_ACTIVITY, _ucum("{counts}", "Counts")),
    "CPS": (TOMOGRAPHIC_ACTIVITY, _ucum("{counts}/s", "Counts per second")),
    "PROPCNTS": (TOMOGRAPHIC_ACTIVITY, _ucum("{propcounts}", "Proportional to counts")),
    "CM2ML": (SUV_BSA, _ucum("cm2/ml{SUVbsa}", "Standardized Uptake Value body surface area")),
}

# SUV Type (0054,1006) of values in GML → quantity and unit. The codes of the two others,
# LBMJAMES128 and LBMJANMA, are longer than a Code Value may be.
SUV_TYPES: dict[str, tuple[Code, Code]] = {
    "": (SUV_BW, G_ML_BW),
    "BW": (SUV_BW, G_ML_BW),
    "LBM": (SUV_LBM, _ucum("g/ml{SUVlbm}", "Standardized Uptake Value lean body mass (James)")),
    "IBW": (SUV_IBW, _ucum("g/ml{SUVibw}", "Standardized Uptake Value ideal body weight")),
}
SUV_OTHER = (SUV, _ucum("g/ml", "gram per milliliter"))

# Uptake values that are not by body weight, or do not say by what.
OTHER_UPTAKE = frozenset({SUV, SUV_LBM, SUV_BSA, SUV_IBW})

# Older spellings of the same unit.
UNIT_SPELLINGS = {
    "{SUVbw}g/ml": "g/ml{SUVbw}",
    "{SUVlbm}g/ml": "g/ml{SUVlbm}",
    "{SUVibw}g/ml": "g/ml{SUVibw}",
    "{SUVbsa}cm2/ml": "cm2/ml{SUVbsa}",
    "Bq/mL": "Bq/ml",
}
# What a value in that unit is, where a real world value map does not say it.
QUANTITY_OF_UNIT: dict[str, Code] = {
    "[hnsf'U]": ATTENUATION,
    "g/ml{SUVbw}": SUV_BW,
    "g/ml{SUVlbm}": SUV_LBM,
    "g/ml{SUVibw}": SUV_IBW,
    "cm2/ml{SUVbsa}": SUV_BSA,
    "Bq/ml": TOMOGRAPHIC_ACTIVITY,
    "mm2/s": ADC,
    "um2/s": ADC,
}

# Modality (0008,0060) → what its values are when nothing says more.
_BY_MODALITY: dict[str, Code] = {
    "MR": MR_SIGNAL,
    "US": ECHOGENICITY,
    "IVUS": ECHOGENICITY,
    "PT": TOMOGRAPHIC_ACTIVITY,
    "NM": PROJECTED_ACTIVITY,
    **dict.fromkeys(("CT", "CR", "DX", "MG", "XA", "RF", "IO", "PX"), X_RAY),
}


def arbitrary(modality: str) -> Code:
    """What values in arbitrary units are, as far as the modality says it."""
    return _BY_MODALITY.get(modality, LUMINANCE)
