"""Frames of instances, single or many, with one way to ask for an attribute of a frame.

In an enhanced object an attribute may stand in the frame's own functional groups, in those that
all frames share, or beside them (PS3.3 C.7.6.16). The table says in which macro to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pydicom.dataset import Dataset

from core.errors import DecodeError
from workers.images.attributes import first_item, items, number, numbers, text, texts, whole
from workers.images.read import frame_count
from workers.images.stack import ImageFrame, Point

# Attribute → the functional group macros that may hold it (PS3.3 C.7.6.16.2, C.8.13 to C.8.22).
_MACROS: dict[str, tuple[str, ...]] = {
    "ImagePositionPatient": ("PlanePositionSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "PixelSpacing": ("PixelMeasuresSequence",),
    "SliceThickness": ("PixelMeasuresSequence",),
    "SpacingBetweenSlices": ("PixelMeasuresSequence",),
    "ImagerPixelSpacing": ("XAXRFFramePixelDataPropertiesSequence",),
    "EstimatedRadiographicMagnificationFactor": ("ProjectionPixelCalibrationSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "RescaleType": ("PixelValueTransformationSequence",),
    "FrameLaterality": ("FrameAnatomySequence",),
    "StackID": ("FrameContentSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
    "FrameAcquisitionNumber": ("FrameContentSequence",),
    "FrameAcquisitionDateTime": ("FrameContentSequence",),
    "FrameReferenceDateTime": ("FrameContentSequence",),
    "TemporalPositionTimeOffset": ("TemporalPositionSequence",),
    "EffectiveEchoTime": ("MREchoSequence",),
    "DiffusionBValue": ("MRDiffusionSequence",),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence",),
    "InversionTimes": ("MRModifierSequence",),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence",),
    "ComplexImageComponent": ("MRImageFrameTypeSequence",),
    "AcquisitionContrast": ("MRImageFrameTypeSequence",),
    "FrameType": (
        "MRImageFrameTypeSequence",
        "CTImageFrameTypeSequence",
        "PETFrameTypeSequence",
        "XAXRFFrameCharacteristicsSequence",
    ),
}
# Where a converter put what it did not know a macro for (PS3.3 C.7.6.16.2.25.1 and .2).
_UNASSIGNED = (
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame as it came, before its pixels are decoded.

    Attributes:
        dataset: the instance that it belongs to; frames of one instance share it.
        index: its place in the instance, from 0.
        multi_frame: whether a reference to it needs a Referenced Frame Number.
        own: its item of the Per-frame Functional Groups Sequence, if there is one.
        shared: the item of the Shared Functional Groups Sequence, if there is one.
    """

    dataset: Dataset
    index: int = 0
    multi_frame: bool = False
    own: Dataset | None = None
    shared: Dataset | None = None

    def holder(self, keyword: str) -> Dataset:
        """The data set in which to look the attribute up for this frame."""
        for groups in (self.own, self.shared):
            if groups is None:
                continue
            for macro in (*_MACROS.get(keyword, ()), *_UNASSIGNED):
                item = first_item(groups, macro)
                if item is not None and keyword in item:
                    return item
        return self.dataset

    def group(self, macro: str) -> tuple[Dataset, ...]:
        """The items of a macro, or of a sequence of that name beside the functional groups."""
        for groups in (self.own, self.shared, self.dataset):
            if groups is not None and (found := items(groups, macro)):
                return found
        return ()

    def number(self, keyword: str) -> float | None:
        """One number of this frame; None if it is missing."""
        return number(self.holder(keyword), keyword)

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """`count` numbers of this frame; None if they are missing."""
        return numbers(self.holder(keyword), keyword, count)

    def text(self, keyword: str) -> str:
        """Text of this frame; empty if it is missing."""
        return text(self.holder(keyword), keyword)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; 0 where they are missing."""
        return whole(self.dataset, "Rows"), whole(self.dataset, "Columns")

    @property
    def modality(self) -> str:
        """Modality (0008,0060)."""
        return text(self.dataset, "Modality")

    @cached_property
    def position(self) -> Point | None:
        """Image Position (Patient), LPS, mm; None beside an orientation that is none."""
        if self.orientation is None and self.numbers("ImageOrientationPatient", 6) is not None:
            return None
        found = self.numbers("ImagePositionPatient", 3)
        return None if found is None else (found[0], found[1], found[2])

    @cached_property
    def orientation(self) -> tuple[float, ...] | None:
        """Image Orientation (Patient): row direction, then column direction.

        None where a direction is all zeros, as some writers fill in what they do not know.
        """
        found = self.numbers("ImageOrientationPatient", 6)
        return found if found is not None and any(found[:3]) and any(found[3:]) else None

    @property
    def kind(self) -> tuple[str, ...]:
        """Frame Type, or Image Type (PS3.3 C.7.6.1.1.2)."""
        return texts(self.holder("FrameType"), "FrameType") or texts(self.dataset, "ImageType")

    @property
    def laterality(self) -> str:
        """Side by the instance's own attributes, "L" or "R"; empty where they do not say."""
        for found in (
            text(self.dataset, "ImageLaterality"),
            self.text("FrameLaterality"),
            text(self.dataset, "Laterality"),
        ):
            if found:
                return found if found in {"L", "R"} else ""
        return ""

    def finished(self) -> ImageFrame:
        """What results refer to."""
        way = self.orientation
        return ImageFrame(
            dataset=self.dataset,
            number=self.index + 1,
            multi_frame=self.multi_frame,
            position=self.position,
            orientation=None if way is None else (way[0], way[1], way[2], way[3], way[4], way[5]),
        )


def frames_of(datasets: Sequence[Dataset]) -> list[Frame]:
    """Every frame of `datasets`, in the order of Instance Number, then SOP Instance UID.

    Frames of one instance stay together, in their own order. An Instance Number that cannot be
    read counts as missing: it names a place in the series and nothing else rests on it.

    Raises:
        DecodeError: an attribute that cannot be read.
    """
    ordered = sorted(
        datasets,
        key=lambda dataset: (
            _instance_number(dataset),
            text(dataset, "SOPInstanceUID"),
        ),
    )
    return [frame for dataset in ordered for frame in _of_one(dataset)]


def _instance_number(dataset: Dataset) -> float:
    try:
        return number(dataset, "InstanceNumber") or 0.0
    except DecodeError:
        return 0.0


def _of_one(dataset: Dataset) -> list[Frame]:
    count = frame_count(dataset)
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    many = count > 1 or bool(own) or shared is not None
    return [
        Frame(dataset, index, many, own[index] if own else None, shared) for index in range(count)
    ]
