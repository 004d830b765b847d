"""The lesions as a DICOM Segmentation (PS3.3 A.51): one binary segment for each."""

from __future__ import annotations

import numpy as np
from highdicom import PixelMeasuresSequence
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from skimage.color import rgb2lab

from core.domain import Finding
from core.errors import ResultError
from workers.findings import Findings
from workers.results.codes import concept
from workers.results.provenance import SEG_SERIES_NUMBER, Provenance, sign, template_of
from workers.volume import SeriesVolume


def build_seg(volume: SeriesVolume, findings: Findings, provenance: Provenance) -> Dataset:
    """One segment per lesion, in the source's own slices; empty frames are left out.

    Segment Number is the finding's number. Position, orientation and Frame of Reference are
    the source's, value for value, so that no viewer can show it shifted.

    Raises:
        ResultError: there is no lesion; an empty SEG says nothing that the SR does not.
    """
    if not findings.present:
        raise ResultError("no lesion was found, so there is nothing to segment")
    source = volume.datasets[0]
    templates = [template_of(dataset, volume.spacing_mm[0]) for dataset in volume.datasets]
    for template in templates:
        # the same up to the noise that the volume tolerates; highdicom wants the very same
        template.ImageOrientationPatient = source.ImageOrientationPatient
        template.PixelSpacing = source.PixelSpacing
    seg = Segmentation(
        source_images=templates,
        pixel_array=findings.label_map,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(finding, provenance) for finding in findings.present],
        series_instance_uid=provenance.uid("SEG", "series"),
        series_number=SEG_SERIES_NUMBER,
        sop_instance_uid=provenance.uid("SEG"),
        instance_number=1,
        manufacturer=provenance.manufacturer,
        manufacturer_model_name=provenance.manufacturer_model_name,
        software_versions=provenance.software_version,
        device_serial_number=provenance.device_serial_number,
        content_label="AI_LESIONS",
        content_description="AI result, not reviewed",
        content_creator_name=f"{provenance.manufacturer}^AI",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        pixel_measures=PixelMeasuresSequence(
            pixel_spacing=volume.spacing_mm[1:],
            slice_thickness=float(templates[0].SliceThickness),
            spacing_between_slices=volume.spacing_mm[0],
        ),
        omit_empty_frames=True,
    )
    # highdicom makes a new one on each call; ours must be the same on a retry.
    organization = provenance.uid("SEG", "dimensions")
    for item in seg.DimensionOrganizationSequence:
        item.DimensionOrganizationUID = organization
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = organization
    sign(seg, source, provenance)
    return seg


def _segment(finding: Finding, provenance: Provenance) -> SegmentDescription:
    """The item of the Segment Sequence for `finding` (PS3.3 C.8.20.4)."""
    lightness, a, b = rgb2lab(np.array(finding.color, dtype=np.float64) / 255)
    return SegmentDescription(
        segment_number=finding.number,
        segment_label=finding.label,
        segmented_property_category=concept(finding.category),
        segmented_property_type=concept(finding.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=provenance.algorithm(),
        tracking_uid=finding.tracking_uid,
        tracking_id=finding.label,
        anatomic_regions=[concept(finding.site)] if finding.site else None,
        display_color=CIELabColor(float(lightness), float(a), float(b)),
    )
