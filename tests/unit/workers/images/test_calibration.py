"""Pixel sizes from the right attribute for each kind of image, and none by guess."""

import numpy as np
import pytest

from core.errors import DecodeError
from workers.images.build import build_stacks
from workers.images.stack import Basis


def known(make, modality, *, shape=(20, 30), **attributes):
    image = make.image(np.zeros(shape, np.uint16), modality=modality, **attributes)
    (stack,) = build_stacks([image], make.images, max_voxels=make.room)
    return stack.calibrations


SPACED, IMAGER = {"PixelSpacing": [0.2, 0.1]}, {"ImagerPixelSpacing": [0.4, 0.3]}
MAGNIFIED = {"EstimatedRadiographicMagnificationFactor": 2}


@pytest.mark.parametrize(
    ("modality", "attributes", "size", "basis"),
    [
        ("MR", SPACED, (0.2, 0.1), Basis.PATIENT),
        ("OT", SPACED, (0.2, 0.1), Basis.PATIENT),
        ("DX", IMAGER, (0.4, 0.3), Basis.DETECTOR),
        ("MG", IMAGER | MAGNIFIED, (0.2, 0.15), Basis.MAGNIFIED),
        ("DX", IMAGER | {"PixelSpacing": [0.4, 0.3]}, (0.4, 0.3), Basis.DETECTOR),
        ("DX", IMAGER | {"PixelSpacing": [0.4, 0.3]} | MAGNIFIED, (0.2, 0.15), Basis.MAGNIFIED),
        ("DX", IMAGER | SPACED, (0.2, 0.1), Basis.PATIENT),
        ("CR", SPACED, (0.2, 0.1), Basis.DETECTOR),
        ("CR", SPACED | {"PixelSpacingCalibrationType": "FIDUCIAL"}, (0.2, 0.1), Basis.PATIENT),
        ("OT", {"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1), Basis.DETECTOR),
    ],
)
def test_by_kind_of_image(make, modality, attributes, size, basis):
    (found,) = known(make, modality, **attributes)
    assert (found.row_mm, found.column_mm) == pytest.approx(size)
    assert found.basis is basis
    assert found.region is None


@pytest.mark.parametrize("modality", ["US", "CR", "DX", "MR", "OT", "XA"])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"PixelSpacing": None}, {"PixelSpacing": [0, 0]}, {"PixelAspectRatio": [1, 1]}],
)
def test_nothing_is_no_calibration(make, modality, attributes):
    assert known(make, modality, **attributes) == ()


def region(make, **attributes):
    usual = {
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": 0.05,
        "PhysicalDeltaY": -0.02,
        "RegionLocationMinX0": 4,
        "RegionLocationMinY0": 2,
        "RegionLocationMaxX1": 99,
        "RegionLocationMaxY1": 10,
    }
    return make.item(**(usual | attributes))


def test_ultrasound_is_in_centimetres_and_only_in_its_region(make):
    (found,) = known(make, "US", SequenceOfUltrasoundRegions=[region(make)])
    assert (found.row_mm, found.column_mm) == pytest.approx((0.2, 0.5))
    assert found.basis is Basis.REGION
    assert found.region == (4, 2, 29, 10)
    assert found.holds_at(slice(2, 11), slice(4, 30))
    assert not found.holds_at(slice(2, 12), slice(4, 30))


def test_ultrasound_in_seconds_has_no_size(make):
    regions = [region(make, PhysicalUnitsXDirection=4), region(make, PhysicalDeltaX=0.0)]
    assert known(make, "US", SequenceOfUltrasoundRegions=regions, **SPACED) == ()


def test_a_spacing_that_is_no_pair_is_a_decode_error(make):
    with pytest.raises(DecodeError, match="PixelSpacing has 3 values"):
        known(make, "MR", PixelSpacing=[1, 2, 3])


def test_the_spacing_of_an_enhanced_projection(make):
    image = make.image(np.zeros((2, 4, 4), np.uint16), modality="XA")
    properties = make.item(ImagerPixelSpacing=[0.3, 0.3])
    image.SharedFunctionalGroupsSequence = [
        make.item(XAXRFFramePixelDataPropertiesSequence=[properties])
    ]
    (stack,) = build_stacks([image], make.images, max_voxels=make.room)
    assert stack.calibrations[0].basis is Basis.DETECTOR
    assert stack.calibrations[0].row_mm == 0.3


def test_where_ultrasound_regions_of_other_scales_overlap_there_is_no_size(make):
    wide = region(make, RegionLocationMinX0=0, RegionLocationMinY0=0, RegionLocationMaxY1=19)
    inset = region(make, RegionLocationMinX0=20, RegionLocationMinY0=10, RegionLocationMaxY1=19)
    same = known(make, "US", SequenceOfUltrasoundRegions=[wide, inset])
    assert all(found.outside == () for found in same)
    for other in ({"PhysicalDeltaX": 0.1}, {"PhysicalUnitsXDirection": 4}):
        for keyword, value in other.items():
            setattr(inset, keyword, value)
        (found,) = known(make, "US", SequenceOfUltrasoundRegions=[wide, inset])
        assert found.holds_at(slice(0, 10), slice(0, 30))
        assert found.holds_at(slice(0, 20), slice(0, 20))
        assert not found.holds_at(slice(0, 11), slice(0, 21))
        assert not found.holds_at(slice(12, 14), slice(25, 27))
