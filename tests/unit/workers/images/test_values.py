"""Values in their units: Hounsfield, real world value maps, modality LUTs."""

import numpy as np
import pytest

from core.errors import DecodeError
from workers.images.build import build_stacks

STORED = np.array([[0, 10, 20, 100]], np.uint16)


def one(make, dataset):
    (stack,) = build_stacks([dataset], make.images, max_voxels=make.room)
    return stack


def code(make, value, meaning, scheme="UCUM"):
    return [make.item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def real_world(make, unit="um2/s", first=0, last=4095, **attributes):
    return make.item(
        MeasurementUnitsCodeSequence=code(make, unit, "unit"),
        RealWorldValueFirstValueMapped=first,
        RealWorldValueLastValueMapped=last,
        **attributes,
    )


@pytest.mark.parametrize(
    ("modality", "attributes", "unit", "remark"),
    [
        ("CT", {"RescaleSlope": 1, "RescaleIntercept": -1024}, "[hnsf'U]", ""),
        ("CT", {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}, "[hnsf'U]", ""),
        ("CT", {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"}, "1", "in US"),
        ("CT", {}, "1", "do not say so"),
        ("MR", {"RescaleSlope": 3, "RescaleIntercept": 7}, "1", ""),
        ("XA", {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "HU"}, "[hnsf'U]", ""),
    ],
)
def test_hounsfield_units_only_where_the_images_say_so(make, modality, attributes, unit, remark):
    stack = one(make, make.image(STORED, modality=modality, **attributes))
    assert stack.unit.value == unit
    slope, intercept = attributes.get("RescaleSlope", 1), attributes.get("RescaleIntercept", 0)
    assert np.array_equal(stack.array[0], STORED.astype(int) * slope + intercept)
    assert remark in " ".join(stack.remarks)
    assert bool(remark) == bool(stack.remarks)


def test_each_frame_has_its_own_rescale(make):
    dataset = make.enhanced(np.full((3, 2, 2), 10, np.uint16), make.affine())
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.PixelValueTransformationSequence = [
            make.item(RescaleSlope=index + 1, RescaleIntercept=-index, RescaleType="US")
        ]
    (stack,) = build_stacks([dataset], make.volume, max_voxels=make.room)
    assert stack.array[:, 0, 0].tolist() == [10, 19, 28]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_modality_lut(make, as_bytes):
    table = [5, 50, 500]
    lut = make.item(LUTDescriptor=[3, 9, 16], ModalityLUTType="HU")
    lut.add_new(
        "LUTData",
        "OW" if as_bytes else "US",
        np.array(table, "<u2").tobytes() if as_bytes else table,
    )
    stack = one(make, make.image(STORED, modality="CT", ModalityLUTSequence=[lut]))
    assert stack.array[0, 0].tolist() == [5, 50, 500, 500]
    assert stack.unit.value == "[hnsf'U]"


def test_a_modality_lut_that_is_too_short_is_a_decode_error(make):
    lut = make.item(LUTDescriptor=[0, 0, 16], ModalityLUTType="US")
    lut.add_new("LUTData", "US", [1, 2, 3])
    with pytest.raises(DecodeError, match="3 entries, not 65536"):
        one(make, make.image(STORED, ModalityLUTSequence=[lut]))


def test_a_real_world_value_map_goes_first(make):
    item = real_world(make, RealWorldValueSlope=0.5, RealWorldValueIntercept=-1.0)
    image = make.image(STORED, RescaleSlope=9, RescaleIntercept=9)
    image.RealWorldValueMappingSequence = [item]
    stack = one(make, image)
    assert stack.array[0, 0].tolist() == [-1, 4, 9, 49]
    assert stack.unit.value == "um2/s"
    assert stack.quantity.meaning == "Apparent Diffusion Coefficient"


def test_a_real_world_value_map_names_its_quantity(make):
    item = real_world(make, "1", RealWorldValueSlope=1.0, RealWorldValueIntercept=0.0)
    item.QuantityDefinitionSequence = [
        make.item(
            ConceptNameCodeSequence=code(make, "246205007", "Quantity", "SCT"),
            ConceptCodeSequence=code(make, "110808", "Fractional Anisotropy", "DCM"),
        )
    ]
    image = make.image(STORED, PhotometricInterpretation="MONOCHROME2")
    image.RealWorldValueMappingSequence = [item]
    assert one(make, image).quantity.value == "110808"


def test_several_maps_of_one_unit_hold_each_in_its_range(make):
    image = make.image(STORED)
    image.RealWorldValueMappingSequence = [
        real_world(make, last=10, RealWorldValueSlope=1.0, RealWorldValueIntercept=0.0),
        real_world(make, first=11, last=50, RealWorldValueSlope=2.0, RealWorldValueIntercept=0.0),
        real_world(make, "[hnsf'U]", RealWorldValueSlope=7.0, RealWorldValueIntercept=0.0),
    ]
    assert one(make, image).array[0, 0].tolist() == [0, 10, 40, 100]


def test_a_real_world_value_table(make):
    item = real_world(make, first=10, last=12, RealWorldValueLUTData=[1.5, 2.5, 3.5])
    image = make.image(STORED, RealWorldValueMappingSequence=[item])
    assert one(make, image).array[0, 0].tolist() == [1.5, 1.5, 3.5, 3.5]


@pytest.mark.parametrize("slope", [0, "inf"])
def test_a_rescale_that_is_none_is_a_decode_error(make, slope):
    with pytest.raises(DecodeError, match="RescaleSlope"):
        one(make, make.image(STORED, RescaleSlope=slope, RescaleIntercept=0))


def test_a_slope_that_leaves_no_finite_value_is_a_decode_error(make):
    with pytest.raises(DecodeError, match="no pixel has a finite value"):
        one(make, make.image(STORED + 1, RescaleSlope="1e300", RescaleIntercept=0))
