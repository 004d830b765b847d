"""PET in SUV and CT by density: rules, exact against phantoms whose figures follow by hand."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from pydicom.dataset import Dataset
from support import phantoms, way
from support.packages import write_spec
from support.phantoms import Phantom
from support.phantoms_body import in_air
from support.validators import tid1500reader

from core.errors import ModelError, ModelSpecError, NotApplicableError
from core.modelspec import find_specs, read_spec
from core.settings import Settings
from models.registry import load
from workers.rules import body_of, chosen

_SUV, _VOLUME, _TLG = "126401", "118565006", "126033"
_MEAN, _MAX, _PEAK = "373098007", "56851009", "126031"


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Callable[..., Settings]:
    def make(*windows: str) -> Settings:
        wanted = {"ct-density": windows} if windows else {}
        return make_settings(models={"windows": wanted}, worker={"device": "cpu"})

    return make


def only_group(went: way.Went) -> Dataset:
    (group,) = way.groups(went.object("SR"))
    return group


def peak_by_hand(values: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> float:
    """The highest mean in a sphere of 1 mL about a voxel of the mask, one sphere at a time."""
    radius = 10 * (3 / (4 * math.pi)) ** (1 / 3)
    places = np.stack(np.indices(values.shape), axis=-1) @ affine[:3, :3].T
    best = 0.0
    for index in np.argwhere(mask):
        near = np.linalg.norm(places - places[tuple(index)], axis=-1) <= radius
        best = max(best, float(values[near].mean()))
    return best


def test_uptake_is_exact(settings: Callable[..., Settings], tmp_path: Path) -> None:
    phantom = phantoms.pet(noise=0)
    assert phantom.suv_per_value is not None
    assert phantom.grid is not None
    went = way.go(phantom.datasets, "pet-suv", settings())
    (found,) = went.analysis.findings
    assert found.label == "Candidate uptake region 1"
    assert found.probability is None
    assert np.array_equal(went.analysis.parts[0].label_map == 1, phantom.mask)
    suv = phantom.lesion_value * phantom.suv_per_value
    millilitres = np.count_nonzero(phantom.mask) * 3.0 * 1.5 * 1.5 / 1000
    values = np.where(phantom.mask, suv, phantom.background_value * phantom.suv_per_value)
    peak = peak_by_hand(values, phantom.mask, phantom.grid.affine)
    assert peak < suv  # the sphere is larger than the lesion is high
    numbers = way.numbers(only_group(went))
    unit = "g/ml{SUVbw}"
    assert numbers[_VOLUME, ""] == (pytest.approx(millilitres, rel=1e-6), "mL")
    for derivation in (_MEAN, _MAX):
        assert numbers[_SUV, derivation] == (pytest.approx(suv, rel=1e-4), unit)
    assert numbers[_SUV, _PEAK] == (pytest.approx(peak, rel=1e-4), unit)
    assert numbers[_TLG, ""] == (pytest.approx(suv * millilitres, rel=1e-4), "g")
    said = " ".join(way.texts(went.object("SR")))
    assert "Physiological uptake not excluded" in said
    assert "burden" not in said
    assert "Certainty" not in str(only_group(went))
    assert tid1500reader(way.write(went, "SR", tmp_path))["Measurements"]
    assert went.summary["device"] == "rule"


def test_an_enhanced_pet_gives_the_same(settings: Callable[..., Settings]) -> None:
    phantom = phantoms.enhanced_pet(noise=0)
    went = way.go(phantom.datasets, "pet-suv", settings())
    assert phantom.suv_per_value is not None
    suv = phantom.lesion_value * phantom.suv_per_value
    assert way.numbers(only_group(went))[_SUV, _MAX][0] == pytest.approx(suv, rel=1e-4)


def test_counts_with_the_scanners_own_factor_and_suv_by_the_scanner(
    settings: Callable[..., Settings],
) -> None:
    plain = phantoms.pet(noise=0)
    factor = plain.suv_per_value
    assert factor is not None
    suv = plain.lesion_value * factor
    for units in ("CNTS", "GML"):
        phantom = phantoms.pet(noise=0)
        for dataset in phantom.datasets:
            dataset.Units = units
            if units == "CNTS":  # documented in Philips' conformance statements
                block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
                block.add_new(0x00, "DS", f"{factor:.10g}")
            else:
                dataset.SUVType = "BW"
                dataset.RescaleSlope = f"{float(dataset.RescaleSlope) * factor:.10g}"
        went = way.go(phantom.datasets, "pet-suv", settings())
        numbers = way.numbers(only_group(went))
        assert numbers[_SUV, _MAX][0] == pytest.approx(suv, rel=1e-3), units


def test_nothing_above_the_threshold_is_said_to_be_absent(
    settings: Callable[..., Settings],
) -> None:
    phantom = phantoms.pet(noise=0)
    for dataset in phantom.datasets:
        dataset.PatientWeight = 30  # all SUVs fall below 4
    went = way.go(phantom.datasets, "pet-suv", settings())
    assert [finding.present for finding in went.analysis.findings] == [False]
    assert not went.has("SEG")
    assert any("Physiological" in text for text in way.texts(went.object("SR")))


def test_the_tracer_decides_whether_it_is_glycolysis(settings: Callable[..., Settings]) -> None:
    phantom = phantoms.pet(noise=0)
    for dataset in phantom.datasets:
        dataset.RadiopharmaceuticalInformationSequence[0].Radiopharmaceutical = "PSMA-1007"
    numbers = way.numbers(only_group(way.go(phantom.datasets, "pet-suv", settings())))
    assert (_TLG, "") not in numbers
    assert (_SUV, _PEAK) in numbers


def tracer(dataset: Dataset) -> Dataset:
    found: Dataset = dataset.RadiopharmaceuticalInformationSequence[0]
    return found


# What is taken away or changed in every instance, and what the reason must name.
FAULTS: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "no units": (lambda d: delattr(d, "Units"), "Units"),
    "counts without a factor": (lambda d: setattr(d, "Units", "CNTS"), "counts"),
    "SUV by lean mass": (
        lambda d: (setattr(d, "Units", "GML"), setattr(d, "SUVType", "LBM")),
        "lean",
    ),
    "no attenuation": (lambda d: setattr(d, "CorrectedImage", ["DECY", "SCAT"]), "ATTN"),
    "no decay": (lambda d: setattr(d, "CorrectedImage", ["ATTN", "SCAT"]), "DECY"),
    "not corrected": (lambda d: setattr(d, "DecayCorrection", "NONE"), "DecayCorrection"),
    "no weight": (lambda d: delattr(d, "PatientWeight"), "PatientWeight"),
    "weight of nobody": (lambda d: setattr(d, "PatientWeight", 7000), "PatientWeight"),
    "no dose": (lambda d: delattr(tracer(d), "RadionuclideTotalDose"), "RadionuclideTotalDose"),
    "dose in MBq": (lambda d: setattr(tracer(d), "RadionuclideTotalDose", 350), "implausible"),
    "no half-life": (lambda d: delattr(tracer(d), "RadionuclideHalfLife"), "HalfLife"),
    "half-life of another": (
        lambda d: setattr(tracer(d), "RadionuclideHalfLife", 4062.6),
        "RadionuclideHalfLife is implausible",
    ),
    "no injection time": (
        lambda d: (
            delattr(tracer(d), "RadiopharmaceuticalStartTime"),
            delattr(tracer(d), "RadiopharmaceuticalStartDateTime"),
        ),
        "RadiopharmaceuticalStartTime",
    ),
    "injected after the scan": (
        lambda d: (
            delattr(tracer(d), "RadiopharmaceuticalStartDateTime"),
            setattr(tracer(d), "RadiopharmaceuticalStartTime", "094000"),
        ),
        "more than 8 half-lives",
    ),
    "no acquisition time": (lambda d: delattr(d, "AcquisitionTime"), "AcquisitionTime"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("way_of", ["START", "ADMIN"])
def test_without_what_a_suv_rests_on_it_is_not_applicable(
    name: str, way_of: str, settings: Callable[..., Settings]
) -> None:
    change, named = FAULTS[name]
    datasets = phantoms.pet(noise=0).datasets
    for dataset in datasets:
        dataset.DecayCorrection = way_of
        change(dataset)
    with pytest.raises(NotApplicableError, match=named):
        way.go(datasets, "pet-suv", settings())


@pytest.mark.parametrize("keyword", ["PatientWeight", "DecayCorrection", "Units"])
def test_images_that_disagree_are_not_applicable(
    keyword: str, settings: Callable[..., Settings]
) -> None:
    datasets = phantoms.pet(noise=0).datasets
    setattr(datasets[3], keyword, {"PatientWeight": 71, "Units": "CNTS"}.get(keyword, "ADMIN"))
    with pytest.raises(NotApplicableError):
        way.go(datasets, "pet-suv", settings())


def test_a_scan_over_midnight_counts_from_the_evening(settings: Callable[..., Settings]) -> None:
    phantom = phantoms.pet(noise=0)
    for dataset in phantom.datasets:
        tracer(dataset).RadiopharmaceuticalStartTime = "233000"
        del tracer(dataset).RadiopharmaceuticalStartDateTime
        dataset.SeriesTime = dataset.AcquisitionTime = "003000"
    numbers = way.numbers(only_group(way.go(phantom.datasets, "pet-suv", settings())))
    assert phantom.suv_per_value is not None
    suv = phantom.lesion_value * phantom.suv_per_value  # one hour, as in the phantom itself
    assert numbers[_SUV, _MAX][0] == pytest.approx(suv, rel=1e-4)


@pytest.mark.parametrize("variant", ["plain", "signed", "gantry tilt", "mirrored"])
def test_density_is_exact(variant: Any, settings: Callable[..., Settings]) -> None:
    phantom = phantoms.ct(variant, noise=0)
    went = way.go(phantom.datasets, "ct-density", settings("60..200"))
    (found,) = went.analysis.findings
    assert found.label == "Region of 60 to 200 HU 1"
    assert phantom.grid is not None
    voxel = abs(np.linalg.det(phantom.grid.affine[:3, :3])) / 1000
    numbers = way.numbers(only_group(went))
    volume = np.count_nonzero(phantom.mask) * voxel
    assert numbers[_VOLUME, ""] == (pytest.approx(volume, rel=1e-5), "mL")
    assert numbers["112031", _MEAN] == (pytest.approx(90.0), "[hnsf'U]")
    assert ("126031", "") not in numbers
    segment = went.object("SEG").SegmentSequence[0]
    category = segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning
    assert category == "Spatial and Relational Concept"
    assert any("by density alone" in text for text in way.texts(went.object("SR")))


def test_the_air_around_a_body_is_no_region(settings: Callable[..., Settings]) -> None:
    phantom = in_air(phantoms.ct("plain", noise=0))
    went = way.go(phantom.datasets, "ct-density", settings("air"))
    assert [finding.present for finding in went.analysis.findings] == [False]
    went = way.go(phantom.datasets, "ct-density", settings("60..", "soft-tissue"))
    labels = {finding.label.rstrip(" 12") for finding in went.analysis.findings}
    assert labels == {"Region of 60 HU or more", "Density of soft tissue, -30 to 130 HU"}


def test_by_itself_it_looks_for_calcification(settings: Callable[..., Settings]) -> None:
    phantom = phantoms.ct("plain", noise=0)
    went = way.go(phantom.datasets, "ct-density", settings())
    (absent,) = went.analysis.findings
    assert (absent.label, absent.present) == ("Density of calcification, 130 HU or more", False)


def test_values_that_are_not_hounsfield_units_are_not_applicable(
    settings: Callable[..., Settings],
) -> None:
    datasets = phantoms.ct("plain").datasets
    for dataset in datasets:
        dataset.RescaleType = "US"
    with pytest.raises(NotApplicableError, match="needs values in HU"):
        way.go(datasets, "ct-density", settings())
    with pytest.raises(NotApplicableError, match="is for PT"):
        way.go(phantoms.ct("plain").datasets, "pet-suv", settings())


@pytest.mark.parametrize("wanted", ["bone", "..", "200..100", "1..x"])
def test_a_window_that_is_none_is_refused_by_name(wanted: str) -> None:
    with pytest.raises(ModelSpecError, match=r"models\.windows"):
        chosen(find_specs()["ct-density"], (wanted,))


def test_the_body_has_its_own_air_and_not_the_table() -> None:
    array = np.full((3, 60, 60), -1000, np.float32)
    array[:, 10:40, 10:50] = 40  # the trunk
    array[:, 20:30, 20:30] = -950  # air within
    array[:, 20:30, 53:58] = 40  # an arm too thin to count would be left out: this is 4 %
    array[:, 50:52, 5:55] = 100  # the table
    body = body_of(array)
    assert body[:, 10:40, 10:50].all()
    assert np.count_nonzero(body) == 3 * 30 * 40


def rule_of(**changes: Any) -> dict[str, Any]:
    return {
        "unit": "[hnsf'U]",
        "remark": "By density alone.",
        "windows": [{"name": "blob", "channel": 0, "low": 1.0}],
        **changes,
    }


@pytest.mark.parametrize(
    ("change", "fault"),
    list(
        itertools.chain(
            [({"rule": rule_of(windows=[])}, "windows")],
            [({"rule": rule_of(unit="mm")}, "unit")],
            [({"rule": rule_of(windows=[{"name": "a", "channel": 3, "low": 1}])}, "same channels")],
            [({"rule": rule_of(windows=[{"name": "a", "channel": 0}])}, "low, high, or both")],
            [({"rule": rule_of(), "network": {"architecture": "cnn"}}, "a rule has no network")],
            [({}, "network and weights are needed")],
        )
    ),
)  # fmt: skip
def test_a_package_has_a_rule_or_a_network(
    change: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    path = write_spec(tmp_path / "rule")
    content = tomllib.loads(path.read_text())
    for name in ("network", "weights", "preprocessing"):
        del content[name]
    path.write_text(tomli_w.dumps({**content, **change}))
    with pytest.raises(ModelSpecError, match=fault):
        read_spec(tmp_path / "rule")


def test_a_rule_has_nothing_to_load() -> None:
    with pytest.raises(ModelError, match="is a rule"):
        load("pet-suv", device="cpu")


def test_what_a_phantom_is_here_is_what_it_says(settings: Callable[..., Settings]) -> None:
    """The phantom's dose, weight and times give the factor that the tests above count with."""
    made: Phantom = phantoms.pet(noise=0)
    one = made.datasets[0]
    left = tracer(one).RadionuclideTotalDose * 2 ** (-3600 / tracer(one).RadionuclideHalfLife)
    assert made.suv_per_value == pytest.approx(float(one.PatientWeight) * 1000 / left)
