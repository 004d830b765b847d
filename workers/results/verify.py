"""The last look before a result leaves: read it again as a stranger would, and compare."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from core.domain import IDENTITY_KEYWORDS
from core.errors import ResultError
from workers.findings import Findings
from workers.volume import SeriesVolume

# Positions are written with DS's 16 characters.
GEOMETRY_TOLERANCE_MM = 1e-3
_DIRECTION_TOLERANCE = 1e-5


def verify_results(volume: SeriesVolume, findings: Findings, seg: bytes | None, sr: bytes) -> None:
    """Compare the encoded objects with the volume and the findings they were made from.

    Raises:
        ResultError: the SEG's mask, geometry or segments, the SR's references, or anybody's
            identity is not what it must be; the message says which.
    """
    source = volume.datasets[0]
    segmentation = None if seg is None else pydicom.dcmread(io.BytesIO(seg))
    report = pydicom.dcmread(io.BytesIO(sr))
    if bool(findings.present) != (segmentation is not None):
        raise ResultError("a SEG must exist exactly when something was found")
    for made, name in ((segmentation, "SEG"), (report, "SR")):
        if made is not None:
            _check_identity(made, source, name)
    if segmentation is not None:
        _check_segmentation(volume, findings, segmentation)
    _check_report(volume, findings, segmentation, report)


def read_label_map(segmentation: Dataset, volume: SeriesVolume) -> npt.NDArray[np.uint16]:
    """The SEG's segments on the volume's grid, uint16 (slices, rows, columns).

    Each frame is placed by its own Image Position (Patient), not by its order.

    Raises:
        ResultError: a frame lies where the volume has no slice.
    """
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64)
    # scanners write a few decimals; the volume's directions have length one
    cosines = (
        cosines.reshape(2, 3) / np.linalg.norm(cosines.reshape(2, 3), axis=1)[:, None]
    ).ravel()
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=np.float64)
    directions = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    if (
        np.abs(cosines - np.concatenate([directions[:, 2], directions[:, 1]])).max()
        > _DIRECTION_TOLERANCE
    ):
        raise ResultError("the SEG's orientation is not the source's")
    if np.abs(spacing - volume.spacing_mm[1:]).max() > GEOMETRY_TOLERANCE_MM:
        raise ResultError("the SEG's pixel spacing is not the source's")
    if (segmentation.Rows, segmentation.Columns) != volume.array.shape[1:]:
        raise ResultError("the SEG's frames have another size than the source's images")
    frames = pixel_array(segmentation)
    frames = frames[np.newaxis] if frames.ndim == 2 else frames
    places = np.array(
        [dataset.ImagePositionPatient for dataset in volume.datasets], dtype=np.float64
    )
    label_map = np.zeros(volume.array.shape, dtype=np.uint16)
    for group, frame in zip(segmentation.PerFrameFunctionalGroupsSequence, frames, strict=True):
        plane = _functional_group(segmentation, group, "PlanePositionSequence")
        position = np.array(plane.ImagePositionPatient, dtype=np.float64)
        distances = np.linalg.norm(places - position, axis=1)
        index = int(np.argmin(distances))
        if distances[index] > GEOMETRY_TOLERANCE_MM:
            raise ResultError(f"a SEG frame lies {distances[index]:.3f} mm off the source's slices")
        segment = _functional_group(segmentation, group, "SegmentIdentificationSequence")
        label_map[index][frame > 0] = segment.ReferencedSegmentNumber
    return label_map


def _functional_group(segmentation: Dataset, frame: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame. One that is equal for all frames may be shared instead.

    Source: PS3.3 C.7.6.16.
    """
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for place in (frame, shared):
        if keyword in place:
            item: Dataset = place[keyword].value[0]
            return item
    raise ResultError(f"a SEG frame has no {keyword}")


def _check_identity(made: Dataset, source: Dataset, name: str) -> None:
    for keyword in IDENTITY_KEYWORDS:
        if str(made.get(keyword) or "") != str(source.get(keyword) or ""):
            raise ResultError(f"the {name}'s {keyword} is not the source's")
    if made.SeriesInstanceUID == source.SeriesInstanceUID:
        raise ResultError(f"the {name} is in the source's series; it needs one of its own")


def _check_segmentation(volume: SeriesVolume, findings: Findings, segmentation: Dataset) -> None:
    if segmentation.FrameOfReferenceUID != volume.frame_of_reference_uid:
        raise ResultError("the SEG's frame of reference is not the source's")
    differing = int(np.count_nonzero(read_label_map(segmentation, volume) != findings.label_map))
    if differing:
        raise ResultError(f"the SEG's mask differs from what was found in {differing} voxel(s)")
    segments = {item.SegmentNumber: item.TrackingUID for item in segmentation.SegmentSequence}
    if segments != {finding.number: finding.tracking_uid for finding in findings.present}:
        raise ResultError("the SEG's segments are not the findings")


def _check_report(
    volume: SeriesVolume, findings: Findings, segmentation: Dataset | None, report: Dataset
) -> None:
    known = {str(dataset.SOPInstanceUID) for dataset in volume.datasets}
    if segmentation is not None:
        known.add(str(segmentation.SOPInstanceUID))
    evidence = {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    if evidence != known:
        raise ResultError("the SR's evidence is not the source images and the SEG")
    tracked, segments = set(), set()
    for item in _content(report):
        if item.ValueType == "UIDREF" and item.ConceptNameCodeSequence[0].CodeValue == "112040":
            tracked.add(str(item.UID))
        if item.ValueType != "IMAGE":
            continue
        reference = item.ReferencedSOPSequence[0]
        if str(reference.ReferencedSOPInstanceUID) not in known:
            raise ResultError("the SR refers to an instance that is not its evidence")
        if "ReferencedSegmentNumber" in reference:
            segments.add(int(reference.ReferencedSegmentNumber))
    if tracked != {finding.tracking_uid for finding in findings.findings}:
        raise ResultError("the SR's tracking UIDs are not the findings'")
    if segments != {finding.number for finding in findings.present}:
        raise ResultError("the SR's referenced segments are not the SEG's")


def _content(item: Dataset) -> list[Dataset]:
    """Every content item under `item`, in order."""
    found: list[Dataset] = []
    for child in item.get("ContentSequence") or ():
        found.append(child)
        found += _content(child)
    return found
