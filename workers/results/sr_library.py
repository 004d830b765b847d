"""What a report refers to: its images, the documents before it, the orders that it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from core.domain import Result, ResultKind
from workers.images.stack import Basis, Calibration, ImageFrame, ImageStack
from workers.results.codes import MILLIMETRE, PIXELS, SOURCE, acquisition_modality, laterality
from workers.results.sr_items import Items, Reference, Relation

# PS3.3 Table C.17-3 asks for these in an item of the Referenced Request Sequence.
_REQUEST_TYPE_2 = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)
# The pixel spacing of TID 1603 and 1604 is that in the patient or, of a projection, that at the
# detector (PS3.16 Annex D, 111026). What was estimated for a smaller place is neither.
_WRITTEN = (Basis.PATIENT, Basis.DETECTOR)


def reference_to(frame: ImageFrame) -> Reference:
    """A reference to one image."""
    frames = (frame.number,) if frame.multi_frame else ()
    return Reference(str(frame.dataset.SOPClassUID), str(frame.dataset.SOPInstanceUID), frames)


def image_library(stacks: Sequence[ImageStack], items: Items) -> bytes:
    """The images that were analysed, a group for each stack (PS3.16 TID 1600).

    What the images of a stack have in common stands once at the group; a description of each of
    several hundred slices would be most of the report.
    """
    groups = [
        items.container(
            Relation.CONTAINS,
            codes.DCM.ImageLibraryGroup,
            [*_descriptors(stack, items), *_entries(stack, items)],
        )
        for stack in stacks
    ]
    return items.container(Relation.CONTAINS, codes.DCM.ImageLibrary, groups)


def _descriptors(stack: ImageStack, items: Items) -> list[bytes]:
    """What all images of `stack` have in common (PS3.16 TID 1602 to 1604)."""
    context = Relation.ACQUISITION
    found = []
    modality = acquisition_modality(stack.source)
    if modality is not None:
        found.append(items.code(context, codes.DCM.Modality, modality))
    side = laterality(stack.laterality)
    if side is not None:
        found.append(items.code(context, codes.DCM.ImageLaterality, side))
    if stack.frame_of_reference_uid:
        uid = stack.frame_of_reference_uid
        found.append(items.uid(context, codes.DCM.FrameOfReferenceUID, uid))
    rows, columns = stack.array.shape[1:]
    found.append(items.number(context, codes.DCM.PixelDataRows, rows, PIXELS))
    found.append(items.number(context, codes.DCM.PixelDataColumns, columns, PIXELS))
    size = _pixel_size(stack)
    if size is not None:
        across, down = size.column_mm, size.row_mm
        found.append(items.number(context, codes.DCM.HorizontalPixelSpacing, across, MILLIMETRE))
        found.append(items.number(context, codes.DCM.VerticalPixelSpacing, down, MILLIMETRE))
    if stack.spacing_mm is not None and len(stack.frames) > 1:
        step = stack.spacing_mm[0]
        found.append(items.number(context, codes.DCM.SpacingBetweenSlices, step, MILLIMETRE))
    return found


def _pixel_size(stack: ImageStack) -> Calibration | None:
    """The pixel size, where all of every image has one."""
    whole = [c for c in stack.calibrations if c.region is None and c.basis in _WRITTEN]
    return whole[0] if whole else None


def _entries(stack: ImageStack, items: Items) -> Iterable[bytes]:
    """One IMAGE item for each instance (PS3.16 TID 1601).

    Frames are numbered only where others of the instance were not analysed (PS3.3 Table 10-3).
    """
    numbers: dict[int, list[int]] = {}
    for frame in stack.present:
        numbers.setdefault(id(frame.dataset), []).append(frame.number)
    for dataset in stack.datasets:
        used = sorted(numbers[id(dataset)])
        everything = len(used) == int(dataset.get("NumberOfFrames") or 1)
        reference = Reference(
            str(dataset.SOPClassUID),
            str(dataset.SOPInstanceUID),
            () if everything else tuple(used),
        )
        yield items.image(Relation.CONTAINS, SOURCE, reference)


def evidence(datasets: Iterable[Dataset]) -> list[Dataset]:
    """`datasets` as a Hierarchical SOP Instance Reference (PS3.3 Table C.17-3, C.17-3a)."""
    return _hierarchy(
        (str(d.StudyInstanceUID), str(d.SeriesInstanceUID), str(d.SOPClassUID), d.SOPInstanceUID)
        for d in datasets
    )


def predecessors(earlier: Iterable[Result], study_instance_uid: str) -> list[Dataset]:
    """The reports of an earlier analysis: items of the Predecessor Documents Sequence.

    They are in the same study, as all results are. Source: PS3.3 C.17.2.
    """
    return _hierarchy(
        (study_instance_uid, result.series_instance_uid, result.sop_class_uid, uid)
        for result in earlier
        if result.kind == ResultKind.SR and (uid := result.sop_instance_uid)
    )


def _hierarchy(instances: Iterable[tuple[str, str, str, str]]) -> list[Dataset]:
    """(study, series, class, instance) as studies of series of instances, each once, in order."""
    studies: dict[str, dict[str, dict[str, Dataset]]] = {}
    for study, series, sop_class_uid, sop_instance_uid in instances:
        reference = Dataset()
        reference.ReferencedSOPClassUID = sop_class_uid
        reference.ReferencedSOPInstanceUID = sop_instance_uid
        studies.setdefault(study, {}).setdefault(series, {})[sop_instance_uid] = reference
    found = []
    for study, by_series in studies.items():
        of_study = Dataset()
        of_study.StudyInstanceUID = study
        of_study.ReferencedSeriesSequence = []
        for series, references in by_series.items():
            of_series = Dataset()
            of_series.SeriesInstanceUID = series
            of_series.ReferencedSOPSequence = list(references.values())
            of_study.ReferencedSeriesSequence.append(of_series)
        found.append(of_study)
    return found


def requests(source: Dataset) -> list[Dataset]:
    """The orders that the study answers (PS3.3 Table C.17-3), from the images' own items."""
    found = []
    for item in source.get("RequestAttributesSequence") or ():
        request = Dataset()
        request.StudyInstanceUID = item.get("StudyInstanceUID") or source.StudyInstanceUID
        request.ReferencedStudySequence = item.get("ReferencedStudySequence") or []
        for keyword in _REQUEST_TYPE_2:
            setattr(request, keyword, item.get(keyword))
        if not request.AccessionNumber:
            request.AccessionNumber = source.get("AccessionNumber")
        request.RequestedProcedureCodeSequence = item.get("RequestedProcedureCodeSequence") or []
        found.append(request)
    return found
