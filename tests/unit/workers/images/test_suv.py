"""Standardised uptake values against the formula, and every way in which they cannot be had."""

import numpy as np
import pytest

from core.errors import NotApplicableError
from workers.images.build import build_stacks
from workers.images.suv import suv_factor

HALF_LIFE = 6586.2  # F-18, s
STORED = np.array([[0, 1000, 20000]], np.uint16)


@pytest.fixture
def pet(make):
    """One image, corrected to a scan that began an hour after the injection."""
    image = make.image(STORED, modality="PT", RescaleSlope=2, RescaleIntercept=0)
    image.Units, image.DecayCorrection = "BQML", "START"
    image.CorrectedImage = ["DECY", "ATTN", "SCAT"]
    image.PatientWeight = 70
    image.SeriesDate = image.AcquisitionDate = "20240115"
    image.SeriesTime, image.AcquisitionTime = "110000", "110500"
    image.FrameReferenceTime, image.ActualFrameDuration = 420000, 240000
    image.RadiopharmaceuticalInformationSequence = [
        make.item(
            RadionuclideTotalDose=370e6,
            RadionuclideHalfLife=HALF_LIFE,
            RadiopharmaceuticalStartTime="100000",
        )
    ]
    return image


def expected(seconds=3600.0, weight=70, dose=370e6):
    return weight * 1000 / (dose * 2 ** (-seconds / HALF_LIFE))


def test_values_become_suv(make, pet):
    (stack,) = build_stacks([pet], make.images, max_voxels=make.room)
    assert np.allclose(stack.array[0], STORED * 2 * expected(), rtol=1e-6)
    assert (stack.quantity.value, stack.unit.value) == ("126401", "g/ml{SUVbw}")
    assert stack.remarks == ()


def test_corrected_to_the_injection(pet):
    pet.DecayCorrection = "ADMIN"
    assert suv_factor([pet], "BQML") == pytest.approx(expected(0))


def test_an_injection_before_midnight(pet):
    pet.SeriesTime, pet.AcquisitionTime = "003000", "003500"
    pet.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "233000"
    assert suv_factor([pet], "BQML") == pytest.approx(expected())


@pytest.mark.parametrize(
    ("written", "zone", "seconds"),
    [
        ("20240115103000.00", "", 1800),
        ("20240115103000.00+0100", "+0100", 1800),
        ("20240115013000+0000", "+0900", 1800),  # half past ten in Tokyo
        ("20240115", "", 3600),  # no hour: the time of the injection stands beside it
    ],
)
def test_an_exact_time_of_injection(pet, written, zone, seconds):
    tracer = pet.RadiopharmaceuticalInformationSequence[0]
    tracer.RadiopharmaceuticalStartDateTime = written
    if zone:
        pet.TimezoneOffsetFromUTC = zone
    assert suv_factor([pet], "BQML") == pytest.approx(expected(seconds))


def test_an_offset_in_a_data_set_without_a_zone_is_not_guessed_at(pet):
    tracer = pet.RadiopharmaceuticalInformationSequence[0]
    tracer.RadiopharmaceuticalStartDateTime = "20240115103000+0100"
    with pytest.raises(NotApplicableError, match="TimezoneOffsetFromUTC"):
        suv_factor([pet], "BQML")


def test_two_injections_are_not_one(pet):
    (tracer,) = pet.RadiopharmaceuticalInformationSequence
    pet.RadiopharmaceuticalInformationSequence = [tracer, tracer]
    with pytest.raises(NotApplicableError, match="2 items"):
        suv_factor([pet], "BQML")


def test_a_series_time_of_a_workstation_is_not_believed(pet):
    pet.SeriesTime = "180000"
    rate = np.log(2) / HALF_LIFE
    decay = rate * 240
    average = np.log(decay / (1 - np.exp(-decay))) / rate
    assert suv_factor([pet], "BQML") == pytest.approx(expected(3900 + average - 420))
    pet.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240115110200")
    assert suv_factor([pet], "BQML") == pytest.approx(expected(3720))
    pet.DecayCorrectionDateTime = "20240115110100"
    assert suv_factor([pet], "BQML") == pytest.approx(expected(3660))


def test_counts_with_the_factor_of_philips(pet):
    with pytest.raises(NotApplicableError, match="scale factor"):
        suv_factor([pet], "CNTS")
    block = pet.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x09, "DS", "2.5")
    assert suv_factor([pet], "CNTS") == pytest.approx(2.5 * expected())
    block.add_new(0x00, "DS", "0.0004")
    assert suv_factor([pet], "CNTS") == pytest.approx(0.0004)


def test_values_that_are_suv_already(make, pet):
    pet.Units = "GML"
    (stack,) = build_stacks([pet], make.images, max_voxels=make.room)
    assert np.array_equal(stack.array[0], STORED * 2)
    assert stack.unit.value == "g/ml{SUVbw}"


def test_another_kind_of_suv_is_named(make, pet):
    pet.Units, pet.SUVType = "GML", "LBM"
    (stack,) = build_stacks([pet], make.images, max_voxels=make.room)
    assert stack.unit.value == "g/ml{SUVlbm}"
    assert np.array_equal(stack.array[0], STORED * 2)


@pytest.mark.parametrize(
    ("keyword", "value", "named"),
    [
        ("PatientWeight", None, "PatientWeight is missing"),
        ("PatientWeight", 0, "PatientWeight is implausible"),
        ("RadionuclideTotalDose", None, "RadionuclideTotalDose is missing"),
        ("RadionuclideTotalDose", 370, "RadionuclideTotalDose is implausible"),
        ("RadionuclideHalfLife", None, "RadionuclideHalfLife"),
        ("RadiopharmaceuticalStartTime", None, "RadiopharmaceuticalStartTime is missing"),
        ("RadiopharmaceuticalStartTime", "xx", "RadiopharmaceuticalStartTime is no time"),
        ("RadiopharmaceuticalInformationSequence", None, "RadiopharmaceuticalInformationSequence"),
        ("DecayCorrection", "NONE", "DecayCorrection is NONE"),
        ("CorrectedImage", ["DECY"], "ATTN"),
        ("CorrectedImage", ["ATTN"], "DECY"),
        ("AcquisitionTime", None, "AcquisitionDate or AcquisitionTime"),
        ("Units", "PROPCNTS", "Units is PROPCNTS"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_missing_is_named_and_the_values_stay(make, pet, keyword, value, named):
    tracer = pet.RadiopharmaceuticalInformationSequence[0]
    setattr(tracer if keyword in tracer else pet, keyword, value)
    with pytest.raises(NotApplicableError, match=named):
        suv_factor([pet], pet.Units)
    (stack,) = build_stacks([pet], make.images, max_voxels=make.room)
    assert np.array_equal(stack.array[0], STORED * 2)
    assert stack.unit.value in {"Bq/ml", "{propcounts}"}
    assert named.split()[0] in stack.remarks[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_offset_does_not_make_hours_of_a_date(pet):
    pet.TimezoneOffsetFromUTC = "+0100"
    tracer = pet.RadiopharmaceuticalInformationSequence[0]
    usual = suv_factor([pet], "BQML")
    tracer.RadiopharmaceuticalStartDateTime = "20240115+0100"
    assert suv_factor([pet], "BQML") == usual


@pytest.mark.parametrize(
    ("units", "kind", "unit"),
    [
        ("GML", "LBM", "g/ml{SUVlbm}"),
        ("GML", "LBMJANMA", "g/ml"),
        ("CM2ML", "BSA", "cm2/ml{SUVbsa}"),
    ],
)
def test_another_kind_of_suv_is_remarked_upon(make, pet, units, kind, unit):
    pet.Units, pet.SUVType = units, kind
    (stack,) = build_stacks([pet], make.images, max_voxels=make.room)
    assert stack.unit.value == unit
    (remark,) = stack.remarks
    assert remark.endswith("not SUV by body weight.")
