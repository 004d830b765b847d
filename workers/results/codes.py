"""Coded concepts that results use, and the way from our `Code` to theirs (PS3.3 Section 8)."""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode

from core import equipment
from core.modelspec import Code


def concept(code: Code | PydicomCode) -> CodedConcept:
    """`code` as highdicom's coded concept."""
    if isinstance(code, PydicomCode):
        return CodedConcept.from_code(code)
    return CodedConcept(code.value, code.scheme, code.meaning)


# PS3.16 CID 240 Present-Absent.
PRESENT = concept(codes.cid240.Present)
ABSENT = concept(codes.cid240.Absent)
# PS3.16 Annex D: "the certainty that a device places on an individual finding". It claims no
# more than that the algorithm is so sure; it names no disease.
CERTAINTY_OF_FINDING = concept(codes.DCM.CertaintyOfFinding)
# Of a class: what the model gives it, whether it counts as present or not.
PROBABILITY = concept(codes.DCM.Probability)
PERCENT = concept(codes.UCUM.Percent)
MILLIMETRE = concept(codes.UCUM.Millimeter)
PIXELS = CodedConcept("{pixels}", "UCUM", "pixels")
# PS3.16 CID 7464: what was made of many values.
MEAN = concept(codes.SCT.Mean)
MAXIMUM = concept(codes.SCT.Maximum)
COMMENT = concept(codes.DCM.Comment)
# PS3.16 TID 1501 and 300: what the items of a measurement group and of a measurement are called.
FINDING_CATEGORY = CodedConcept("276214006", "SCT", "Finding category")
FINDING_SITE = concept(codes.SCT.FindingSite)
LATERALITY = concept(codes.SCT.Laterality)
MEASUREMENT_METHOD = concept(codes.SCT.MeasurementMethod)
# the very code by which intake knows our results again
PROCESSING_EQUIPMENT = concept(PydicomCode(*equipment.PROCESSING_EQUIPMENT))
DEVICE = concept(codes.cid270.Device)

SOURCE = CodedConcept("260753009", "SCT", "Source")
_LATERALITY = {"L": concept(codes.cid244.Left), "R": concept(codes.cid244.Right)}
# PS3.16 CID 5000.
ENGLISH = CodedConcept("en-US", "RFC5646", "English (United States)")

# PS3.16 CID 100: what was imaged, where the study itself has no procedure code.
_BRAIN_MRI = concept(codes.LN.BrainMRI)
_BY_MODALITY = {
    "MR": concept(codes.cid100.MRIUnspecifiedBodyRegion),
    "CT": concept(codes.cid100.CTUnspecifiedBodyRegion),
    "PT": concept(codes.cid100.PETUnspecifiedBodyRegion),
    "NM": concept(codes.cid100.NMUnspecifiedBodyRegion),
    "DX": concept(codes.cid100.XRUnspecifiedBodyRegion),
    "CR": concept(codes.cid100.XRUnspecifiedBodyRegion),
    "MG": concept(codes.cid100.XRUnspecifiedBodyRegion),
}
_IMAGING = concept(codes.cid100.ImagingProcedure)
# PS3.5 Table 6.2-1, VR SH and LO.
_LONGEST = {"CodeValue": 16, "CodingSchemeDesignator": 16, "CodeMeaning": 64}


def laterality(letter: str) -> CodedConcept | None:
    """Image Laterality (0020,0062) as a code of PS3.16 CID 244; None for what is neither."""
    return _LATERALITY.get(letter)


def acquisition_modality(source: Dataset) -> CodedConcept | None:
    """Modality (0008,0060) as a code of PS3.16 CID 29, where it is one."""
    for code in codes.cid29.concepts.values():
        if code.value == source.get("Modality"):
            return concept(code)
    return None


def procedure_codes(source: Dataset) -> list[Dataset]:
    """The items of Procedure Code Sequence (0008,1032) that are whole and legal.

    A code that breaks its own representation would make our report invalid.
    """

    def legal(item: Dataset) -> bool:
        texts = {keyword: str(item.get(keyword) or "") for keyword in _LONGEST}
        return all(
            0 < len(text) <= _LONGEST[keyword] and "\\" not in text and text.isprintable()
            for keyword, text in texts.items()
        )

    return [item for item in source.get("ProcedureCodeSequence") or () if legal(item)]


def procedure_reported(source: Dataset) -> CodedConcept:
    """The imaging procedure of `source`: the study's own code, else one by modality.

    Source: PS3.16 TID 1500, row 4; IHE AIR.
    """
    for item in procedure_codes(source):
        return CodedConcept(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
    modality = str(source.get("Modality", ""))
    if modality == "MR" and str(source.get("BodyPartExamined", "")).upper() == "BRAIN":
        return _BRAIN_MRI
    return _BY_MODALITY.get(modality, _IMAGING)
