"""The measurement groups of the report: one for each finding (PS3.16 TID 1410, 1411 and 1501)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import AlgorithmIdentification
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from core.domain import Finding, FindingKind, Measurement, Space
from core.errors import ResultError
from workers.analysis import Analysis
from workers.images.stack import ImageStack
from workers.results.codes import (
    ABSENT,
    CERTAINTY_OF_FINDING,
    COMMENT,
    FINDING_CATEGORY,
    FINDING_SITE,
    LATERALITY,
    MAXIMUM,
    MEAN,
    MEASUREMENT_METHOD,
    PERCENT,
    PRESENT,
    PROBABILITY,
)
from workers.results.provenance import NOTICE, Provenance
from workers.results.sr_items import AnyCode, Items, Reference, Relation
from workers.results.sr_library import reference_to

_CONTAINS = Relation.CONTAINS
_MODIFIER = Relation.MODIFIER


class Groups:
    """Writes the measurement group of each finding of one analysis."""

    def __init__(
        self,
        analysis: Analysis,
        segs: Sequence[Dataset | None],
        provenance: Provenance,
        items: Items,
    ) -> None:
        """Prepare what all groups have in common."""
        self._analysis = analysis
        self._segs = segs
        self._items = items
        algorithm: AlgorithmIdentification = provenance.algorithm_template()
        self._algorithm = [items.same(item) for item in algorithm]
        self._comments = [items.text(_CONTAINS, COMMENT, remark) for remark in _remarks(analysis)]

    def group(self, finding: Finding) -> bytes:
        """The CONTAINER "Measurement Group" of `finding`.

        Raises:
            ResultError: a lesion has no SEG to refer to, or a measurement is not finite.
        """
        template = "1501"
        region: list[bytes] = []
        if finding.segment:
            template, region = self._region(finding)
        elif finding.key_image is not None:
            image = self._key_image(finding)
            region = [self._items.image(_CONTAINS, codes.DCM.SourceOfMeasurement, image)]
        children = [
            *self._identity(finding),
            *self._algorithm,
            *region,
            *self._places(finding),
            *(self._measurement(measured) for measured in finding.measurements),
            *self._probability(finding),
            *self._evaluations(finding),
            *self._comments,
        ]
        return self._items.container(_CONTAINS, codes.DCM.MeasurementGroup, children, template)

    def _stack(self, finding: Finding) -> ImageStack:
        return self._analysis.parts[finding.part].stack

    def _identity(self, finding: Finding) -> list[bytes]:
        """What it is, and where (PS3.16 TID 1501, rows 2 to 9; TID 4108)."""
        items = self._items
        context = Relation.OBSERVATION
        found = [
            items.text(context, codes.DCM.TrackingIdentifier, finding.label),
            items.uid(context, codes.DCM.TrackingUniqueIdentifier, finding.tracking_uid),
            items.code(_CONTAINS, FINDING_CATEGORY, finding.category),
        ]
        if finding.kind is FindingKind.STRUCTURE:  # where it is, not what was found there
            return [*found, items.code(_MODIFIER, FINDING_SITE, finding.type)]
        found.append(items.code(_CONTAINS, codes.DCM.Finding, finding.type))
        if finding.site is not None:
            side = finding.laterality
            modifier = [items.code(_MODIFIER, LATERALITY, side)] if side is not None else []
            found.append(items.code(_MODIFIER, FINDING_SITE, finding.site, modifier))
        return found

    def _region(self, finding: Finding) -> tuple[str, list[bytes]]:
        """The template that fits, and the segment with the images that it was found in.

        TID 1410 is for a region in one plane; a lesion in images that are no volume is that.
        """
        seg = self._segs[finding.part]
        if seg is None:
            raise ResultError("a report on lesions needs the segmentation that shows them")
        stack, items = self._stack(finding), self._items
        # not by its frame as well: Table 10-3 wants one of the two
        segment = Reference(str(seg.SOPClassUID), str(seg.SOPInstanceUID), segment=finding.segment)
        if not stack.is_volume and finding.slices and finding.slices[0] == finding.slices[1]:
            image = self._image(stack, finding.slices[0])
            if image is not None:
                return "1410", [
                    items.image(_CONTAINS, codes.DCM.ReferencedSegmentationFrame, segment),
                    items.image(_CONTAINS, codes.DCM.SourceImageForSegmentation, image),
                ]
        series = str(stack.source.SeriesInstanceUID)
        return "1411", [
            items.image(_CONTAINS, codes.DCM.ReferencedSegment, segment),
            items.uid(_CONTAINS, codes.DCM.SourceSeriesForSegmentation, series),
        ]

    def _places(self, finding: Finding) -> list[bytes]:
        """Where its diameters were measured, and its centre.

        The templates are extensible, and viewers that do not draw segments draw these lines.
        The longest diameter comes first: viewers take the first graphic for the lesion's own.
        """
        items, stack = self._items, self._stack(finding)
        found = []
        image = self._image(stack, finding.axes.index) if finding.axes else None
        if finding.axes and image:
            long, short = finding.axes.long, finding.axes.short
            found.append(items.points_in_image(_CONTAINS, codes.SCT.LongAxis, long, image))
            found.append(items.points_in_image(_CONTAINS, codes.SCT.ShortAxis, short, image))
        if finding.centre is None:
            return found
        if finding.space == Space.PATIENT and stack.frame_of_reference_uid:
            uid = stack.frame_of_reference_uid
            found.append(
                items.point_in_space(_CONTAINS, codes.DCM.CenterOfMass, finding.centre, uid)
            )
        elif finding.space == Space.IMAGE:
            column, row, index = finding.centre
            image = self._image(stack, round(index))
            if image:
                centre = [(column, row)]
                found.append(
                    items.points_in_image(_CONTAINS, codes.DCM.CenterOfMass, centre, image)
                )
        return found

    def _image(self, stack: ImageStack, index: int) -> Reference | None:
        """The image at `index` of the stack; None where it did not come."""
        frame = stack.frames[index] if 0 <= index < len(stack.frames) else None
        return reference_to(frame) if frame is not None else None

    def _key_image(self, finding: Finding) -> Reference:
        key = finding.key_image
        frame = self._stack(finding).frames[key.index] if key is not None else None
        if key is None or frame is None or frame.dataset.SOPInstanceUID != key.sop_instance_uid:
            raise ResultError("the key image of a finding is none of the images analysed")
        return reference_to(frame)

    def _measurement(self, measured: Measurement) -> bytes:
        """One figure, how it was measured, and of what it was made (PS3.16 TID 300)."""
        return self._number(
            measured.concept, measured.value, measured.unit, measured.method, measured.derivation
        )

    def _number(
        self,
        name: AnyCode,
        value: float,
        unit: AnyCode,
        method: AnyCode | None = None,
        derivation: AnyCode | None = None,
    ) -> bytes:
        items, modifiers = self._items, []
        if method is not None:
            modifiers.append(items.code(_MODIFIER, MEASUREMENT_METHOD, method))
        if derivation is not None:
            modifiers.append(items.code(_MODIFIER, codes.DCM.Derivation, derivation))
        return items.number(_CONTAINS, name, value, unit, modifiers)

    def _probability(self, finding: Finding) -> list[bytes]:
        """How sure the model is, in percent, and what that was made of."""
        if finding.probability is None:
            return []
        percent = 100 * finding.probability
        if finding.kind == FindingKind.LESION:
            return [self._number(CERTAINTY_OF_FINDING, percent, PERCENT, derivation=MEAN)]
        output = self._analysis.spec.output
        combined = MEAN if (output.classes or output).combine == "mean" else MAXIMUM
        return [self._number(PROBABILITY, percent, PERCENT, derivation=combined)]

    def _evaluations(self, finding: Finding) -> list[bytes]:
        """Present or absent, and every other coded reading (PS3.16 TID 1501, row 10)."""
        items = self._items
        if finding.kind is FindingKind.STRUCTURE:
            return []
        found = [items.code(_CONTAINS, finding.type, PRESENT if finding.present else ABSENT)]
        return found + [
            items.code(_CONTAINS, reading.concept, reading.value) for reading in finding.evaluations
        ]


def _remarks(analysis: Analysis) -> list[str]:
    """What a reader of a group must know; the notice first."""
    remarks = [NOTICE, *analysis.remarks]
    if analysis.too_small:
        remarks.append(
            f"{analysis.too_small} region(s) under the least size are not listed"
            f"{_together(analysis.too_small_ml)}."
        )
    if analysis.left_out:
        remarks.append(
            f"{analysis.left_out} smaller finding(s) are not listed: the limit was reached"
            f"{_together(analysis.left_out_ml)}."
        )
    return remarks


def _together(volume_ml: float) -> str:
    """How much that is, where there is a volume."""
    return f" (together {volume_ml:.3g} mL)" if volume_ml else ""
