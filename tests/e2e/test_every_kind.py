"""Every kind of image through one running node, with real peers and known answers.

DCMTK sends phantoms whose lesion is known, Sentinode analyses them, Orthanc receives. What
Orthanc then holds is judged by other people's programs, and what was measured by the phantoms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pydicom
import pytest
from support import phantoms
from support.phantoms import Lesion, Patient, Phantom, Study
from support.phantoms_body import in_air
from support.phantoms_day import Day, spend_day
from support.phantoms_jpeg import lossy
from support.validators import dcentvfy, dciodvfy, dsrdump, tid1500reader

from core.domain import Finding, Measurement, Space
from core.lifecycle import JobState

pytestmark = pytest.mark.timeout(240)

BODY = Study(seed=1, patient=Patient("Phantom^Body", "PHANTOM-B"), accession_number="A-BODY")
VIEWS = Study(seed=2, patient=Patient("Phantom^Views", "PHANTOM-V"), accession_number="A-VIEWS")
RIGHT = Study(seed=5, patient=Patient("Phantom^Right", "PHANTOM-R"), accession_number="A-RIGHT")
ASIA = Study(seed=3, patient=phantoms.PATIENTS["japanese"], accession_number="A-NAME")
JPEG = Study(seed=4, patient=Patient("Phantom^Cine", "PHANTOM-J"), accession_number="A-CINE")
STUDIES = (BODY, VIEWS, RIGHT, ASIA, JPEG)
# The body's middle is at x = 2 mm; x grows to the patient's left.
ON_THE_RIGHT = Lesion(centre=(-10.0, -6.0, 3.0))


def cr_without_spacing() -> Phantom:
    made = phantoms.cr(VIEWS)
    del made.datasets[0].ImagerPixelSpacing
    return made


VOLUMES: dict[str, Callable[[], Phantom]] = {
    "CT": lambda: in_air(phantoms.ct("plain", BODY)),
    "CT gantry tilt": lambda: phantoms.ct("gantry tilt", BODY),
    "CT mirrored": lambda: in_air(phantoms.ct("mirrored", BODY)),
    "CT of the right": lambda: in_air(phantoms.ct("mirrored", RIGHT, lesion=ON_THE_RIGHT)),
    "CT duplicates": lambda: phantoms.ct("duplicates", BODY),
    "MR": lambda: phantoms.mr("", BODY, noise=60),
    "PET": lambda: phantoms.pet(BODY, noise=1600),
    "Enhanced CT": lambda: phantoms.enhanced_ct(BODY),
    "Enhanced MR": lambda: phantoms.enhanced_mr(BODY, noise=60),
    "Enhanced PET": lambda: phantoms.enhanced_pet(BODY, noise=1600),
    "CT of another name": lambda: phantoms.ct("oblique", ASIA),
}
IMAGES: dict[str, Callable[[], Phantom]] = {
    "CR": cr_without_spacing,
    "DX": lambda: phantoms.dx(VIEWS),
    "MG L": lambda: phantoms.mg("L", VIEWS),
    "MG R": lambda: phantoms.mg("R", VIEWS),
    "US RGB": lambda: phantoms.us("RGB", 1, VIEWS),
    "US grey": lambda: phantoms.us("grey", 1, VIEWS),
    "US palette": lambda: phantoms.us("PALETTE COLOR", 1, VIEWS),
    "US cine": lambda: phantoms.us("RGB", 3, VIEWS),
    "XA": lambda: phantoms.xa(2, VIEWS),
    "SC": lambda: phantoms.sc(12, VIEWS),
}
LOSSY: dict[str, Callable[[], Phantom]] = {
    "US JPEG": lambda: lossy(phantoms.us("RGB", 2, JPEG)),
}
# What is no single volume, and the words by which the reason must say why.
NO_VOLUME: dict[str, tuple[Callable[[], Phantom], str]] = {
    "MR of two echoes": (lambda: phantoms.mr("echoes", BODY), "EchoTime"),
    "MR of two b-values": (lambda: phantoms.mr("b-values", BODY), "DiffusionBValue"),
    "Enhanced MR of two echoes": (lambda: phantoms.enhanced_mr(BODY, echoes=2), "EchoTime"),
    "CT of two times": (lambda: phantoms.ct("two time points", BODY), "AcquisitionNumber"),
    "CT with a gap": (lambda: phantoms.ct("missing slice", BODY), "missing"),
}
# These travel compressed; all else in Explicit VR Little Endian.
ENCODED = {
    "CT mirrored": "JPEG-LS",
    "PET": "RLE",
    "Enhanced MR": "JPEG 2000",
    "US grey": "RLE",
    "Enhanced CT": "deflated",
    "SC": "big endian",
}
# What a reader of the report must be told about the sizes in it.
SIZES_REST_ON = {
    "CR": "in pixels",
    "SC": "in pixels",
    "DX": "magnification",
    "MG L": "at the detector",
    "XA": "at the detector",
}


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    apart = {name: make for name, (make, _) in NO_VOLUME.items()}
    made = {name: make() for name, make in {**VOLUMES, **IMAGES, **LOSSY, **apart}.items()}
    return spend_day(tmp_path_factory.mktemp("every-kind"), made, ENCODED)


def measured(
    finding: Finding, meaning: str, derivation: str | None = None, unit: str | None = None
) -> Measurement:
    """The one measurement of a finding by its concept's and derivation's meaning, or its unit."""
    (found,) = [
        item
        for item in finding.measurements
        if meaning in {"", item.concept.meaning}
        and (item.derivation.meaning if item.derivation else None) == derivation
        and unit in {None, item.unit.value}
    ]
    return found


def test_every_kind_is_analysed_and_delivered(day: Day) -> None:
    told = {
        name: (life.job.state, life.job.reason)
        for name, life in day.lives.items()
        if name not in NO_VOLUME
    }
    unlike = {name: how for name, how in told.items() if how[0] != JobState.DONE}
    assert unlike == {}
    kept = {
        item.sop_instance_uid
        for life in day.lives.values()
        for item in life.results
        if item.sop_instance_uid
    }
    assert kept == set(day.objects)
    for name in told:
        objects = {kind: day.made(name, kind) for kind in ("SEG", "SR", "SC")}
        read = {
            kind: [str(pydicom.dcmread(path, stop_before_pixels=True).Modality) for path in paths]
            for kind, paths in objects.items()
        }
        assert read == {"SEG": ["SEG"], "SR": ["SR"], "SC": ["OT"]}, name


@pytest.mark.parametrize("name", NO_VOLUME)
def test_what_is_no_single_volume_is_not_applicable_and_says_why(day: Day, name: str) -> None:
    life = day.lives[name]
    assert life.job.state == JobState.NOT_APPLICABLE
    assert NO_VOLUME[name][1] in life.job.reason
    assert life.results == ()


def test_every_object_is_valid_by_its_iod(day: Day) -> None:
    errors = {path.name: dciodvfy(path) for path in day.objects.values()}
    assert {name: found for name, found in errors.items() if found} == {}


@pytest.mark.parametrize(
    "study", [BODY, VIEWS, RIGHT, ASIA], ids=["body", "views", "right", "name"]
)
def test_results_and_sources_of_a_study_agree(day: Day, study: Study) -> None:
    sources = [
        path
        for name, paths in day.sources.items()
        for path in paths
        if day.phantoms[name].datasets[0].StudyInstanceUID == study.uid()
    ]
    results = [
        path
        for path in day.objects.values()
        if pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID == study.uid()
    ]
    assert sources
    assert results
    assert dcentvfy([*sources, *results]) == []


@pytest.mark.parametrize("name", [*VOLUMES, *IMAGES])
def test_other_readers_find_the_measurements_in_the_report(day: Day, name: str) -> None:
    (path,) = day.made(name, "SR")
    lesions = day.lesions(name)
    groups = tid1500reader(path)["Measurements"]
    assert len(groups) == len(lesions)
    by_uid = {item["TrackingUniqueIdentifier"]: item for item in groups}
    size = "Volume" if name in VOLUMES else "Area"
    for finding in lesions:
        read = {
            (item["quantity"]["CodeMeaning"], derived(item)): item
            for item in by_uid[finding.tracking_uid]["measurementItems"]
        }
        mean = measured(finding, "", "Mean")
        for kept in (measured(finding, size), measured(finding, "Long Axis"), mean):
            derivation = kept.derivation.meaning if kept.derivation else ""
            item = read[kept.concept.meaning, derivation]
            assert float(item["value"]) == pytest.approx(kept.value, rel=1e-3)
            assert item["units"]["CodeValue"] == kept.unit.value
    text = dsrdump(path)
    assert text.count('"Long Axis"') == len(lesions)
    assert "AI result. Not for clinical" in text


def derived(item: dict[str, Any]) -> str:
    """The derivation of a measurement in dcmqi's reading."""
    return str(item.get("derivationModifier", {}).get("CodeMeaning", ""))


@pytest.mark.parametrize(("name", "words"), SIZES_REST_ON.items())
def test_the_report_says_what_its_sizes_rest_on(day: Day, name: str, words: str) -> None:
    (path,) = day.made(name, "SR")
    assert words in texts_of(pydicom.dcmread(path))
    assert words in " ".join(day.lives[name].job.summary["remarks"])


def texts_of(item: Any) -> str:
    """All texts of a report's tree."""
    below = " ".join(texts_of(child) for child in item.get("ContentSequence", []))
    return f"{item.get('TextValue', '')} {below}"


def test_a_lossy_cine_is_measured_all_the_same(day: Day) -> None:
    """Compression moves a pixel of the edge here and there."""
    phantom = day.phantoms["US JPEG"]
    assert phantom.disc is not None
    row, column, _ = phantom.disc
    lesions = day.lesions("US JPEG")
    assert sorted(item.slices or () for item in lesions) == [(0, 0), (1, 1)]
    for finding in lesions:
        assert finding.centre is not None
        assert finding.centre[:2] == pytest.approx((column + 0.5, row + 0.5), abs=0.5)
        assert measured(finding, "", "Mean").value == pytest.approx(phantom.lesion_value, rel=0.05)
        area = measured(finding, "Area")
        assert area.value == pytest.approx(phantom.mask[0].sum() * 0.3 * 0.2, rel=0.1)
        assert area.unit.value == "mm2"


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_lesion_lies_where_the_phantom_has_it(day: Day, name: str) -> None:
    phantom = day.phantoms[name]
    assert phantom.grid is not None
    assert phantom.lesion is not None
    (finding,) = day.lesions(name)
    assert finding.space is Space.PATIENT
    drawn = phantom.grid.affine @ np.append(np.argwhere(phantom.mask).mean(axis=0), 1.0)
    assert finding.centre == pytest.approx(tuple(drawn[:3]), abs=0.01)
    # the lesion itself, not only its voxels: within half a voxel
    step = max(phantom.grid.spacing_mm) / 2
    assert finding.centre == pytest.approx(phantom.lesion.centre, abs=step)
    voxel_ml = abs(np.linalg.det(phantom.grid.affine[:3, :3])) / 1000
    volume = measured(finding, "Volume")
    assert volume.unit.value == "mL"
    assert volume.value == pytest.approx(phantom.mask.sum() * voxel_ml, rel=1e-4)


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_lesion_has_its_values(day: Day, name: str) -> None:
    phantom = day.phantoms[name]
    (finding,) = day.lesions(name)
    unit, factor = {
        "[hnsf'U]": ("[hnsf'U]", 1.0),
        "1": ("1", 1.0),
        "Bq/ml": ("g/ml{SUVbw}", phantom.suv_per_value or 0.0),
    }[phantom.unit]
    mean = measured(finding, "", "Mean")
    assert mean.unit.value == unit
    assert mean.value == pytest.approx(phantom.lesion_value * factor, rel=0.01)
    contrast = measured(finding, "Contrast to the surrounding rim")
    difference = phantom.lesion_value - phantom.background_value
    assert contrast.value == pytest.approx(difference * factor, rel=0.02)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_lesion_lies_where_the_phantom_has_it(day: Day, name: str) -> None:
    phantom = day.phantoms[name]
    assert phantom.disc is not None
    row, column, _ = phantom.disc
    frames = len(phantom.mask)
    lesions = sorted(day.lesions(name), key=lambda item: item.slices or (0, 0))
    places = []
    for finding in lesions:
        assert finding.space is Space.IMAGE
        assert finding.centre is not None
        assert finding.centre[:2] == pytest.approx((column + 0.5, row + 0.5), abs=0.01)
        places.append(finding.centre[2])
        mean = measured(finding, "", "Mean")
        assert mean.value == pytest.approx(phantom.lesion_value, rel=0.01)
        assert finding.key_image is not None
        assert finding.key_image.sop_instance_uid == phantom.datasets[0].SOPInstanceUID
        assert finding.key_image.frame == (int(places[-1]) + 1 if frames > 1 else None)
    assert places == list(range(frames))


@pytest.mark.parametrize(
    ("name", "pixel_mm"),
    [
        ("DX", (0.16, 0.16)),  # 0.2 mm at the detector over a magnification of 1.25
        ("US RGB", (0.3, 0.2)),  # 0.03 cm and 0.02 cm
        ("US grey", (0.3, 0.2)),
        ("US palette", (0.3, 0.2)),
        ("US cine", (0.3, 0.2)),
        ("MG L", (0.2, 0.2)),  # at the detector
        ("XA", (0.2, 0.2)),
        ("CR", None),
        ("SC", None),
    ],
)
def test_an_image_lesion_has_its_size(
    day: Day, name: str, pixel_mm: tuple[float, float] | None
) -> None:
    phantom = day.phantoms[name]
    count = int(phantom.mask[0].sum())
    row_mm, column_mm = pixel_mm or (1.0, 1.0)
    units = ("mm2", "mm") if pixel_mm else ("{pixels}", "{pixels}")
    # the greatest diameter runs from corner to corner of two pixels
    assert phantom.disc is not None
    long = 2 * phantom.disc[2] * max(row_mm, column_mm)
    for finding in day.lesions(name):
        area, axis = measured(finding, "Area"), measured(finding, "Long Axis")
        assert (area.unit.value, axis.unit.value) == units
        assert area.value == pytest.approx(count * row_mm * column_mm, rel=1e-4)
        assert long <= axis.value <= long + 2 * np.hypot(row_mm, column_mm)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("MG L", "Left"),  # by its attribute
        ("MG R", "Right"),
        ("CT", "Left"),  # by the body's middle
        ("CT mirrored", "Left"),
        ("CT of the right", "Right"),
    ],
)
def test_a_lesion_has_its_side_in_ledger_and_report(day: Day, name: str, side: str) -> None:
    """In the report with the site in a volume, with the images in a mammogram."""
    (finding,) = day.lesions(name)
    assert finding.laterality is not None
    assert finding.laterality.meaning == side
    (path,) = day.made(name, "SR")
    assert re.search(rf'"(Image )?Laterality"\)=\(\d+,SCT,"{side}"\)', dsrdump(path))


def test_a_side_that_nothing_says_is_not_stated(day: Day) -> None:
    """The bodies of these volumes fill the whole image: their middle is not known."""
    for name in ("DX", "CR", "US RGB", "MR", "PET", "Enhanced CT"):
        assert {finding.laterality for finding in day.lesions(name)} == {None}


def test_plain_and_mirrored_storage_say_the_same_place(day: Day) -> None:
    (plain,), (mirrored,) = day.lesions("CT"), day.lesions("CT mirrored")
    assert mirrored.centre == pytest.approx(plain.centre, abs=0.01)


@pytest.mark.parametrize("name", [*VOLUMES, *IMAGES])
def test_the_segmentation_is_the_phantoms_mask(day: Day, name: str) -> None:
    """Each frame of the SEG, laid by its references onto the image that it refers to."""
    phantom = day.phantoms[name]
    (path,) = day.made(name, "SEG")
    seg = pydicom.dcmread(path)
    places = by_image(phantom)
    frames = np.asarray(seg.pixel_array).reshape(-1, seg.Rows, seg.Columns)
    seen = []
    for mask, key in zip(frames, referenced(seg), strict=True):
        assert np.array_equal(mask > 0, phantom.mask[places[key]]), key
        seen.append(places[key])
    assert sorted(seen) == [int(index) for index in np.flatnonzero(phantom.mask.any(axis=(1, 2)))]


def by_image(phantom: Phantom) -> dict[tuple[str, int], int]:
    """The index in the phantom's mask of each (SOP Instance UID, frame number from 1)."""
    places = {}
    for dataset in phantom.datasets:
        for number in range(1, int(dataset.get("NumberOfFrames", 1)) + 1):
            index = number - 1 if phantom.grid is None else slice_of(phantom, dataset, number)
            places[str(dataset.SOPInstanceUID), number] = index
    return places


def slice_of(phantom: Phantom, dataset: Any, number: int) -> int:
    """Which slice of its grid a frame of a volume is, by its position."""
    assert phantom.grid is not None
    if "PerFrameFunctionalGroupsSequence" in dataset:
        groups = dataset.PerFrameFunctionalGroupsSequence[number - 1]
        dataset = groups.PlanePositionSequence[0]
    position = np.append(np.array(dataset.ImagePositionPatient, dtype=float), 1.0)
    return round(float((np.linalg.inv(phantom.grid.affine) @ position)[0]))


def referenced(seg: Any) -> Iterator[tuple[str, int]]:
    """The image that each frame of a SEG was derived from (PS3.3 C.7.6.16.2.6)."""
    for group in seg.PerFrameFunctionalGroupsSequence:
        (derivation,) = group.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        yield str(source.ReferencedSOPInstanceUID), int(source.get("ReferencedFrameNumber", 1) or 1)


def test_a_name_in_another_alphabet_survives(day: Day) -> None:
    name = "CT of another name"
    for kind in ("SEG", "SR", "SC"):
        for path in day.made(name, kind):
            read = pydicom.dcmread(path, stop_before_pixels=True)
            assert str(read.PatientName) == ASIA.patient.name


def test_the_log_names_no_patient(day: Day) -> None:
    for study in STUDIES:
        assert study.patient.id not in day.log
        assert study.patient.name not in day.log
    assert "Traceback" not in day.log
