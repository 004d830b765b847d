"""The phantoms themselves: valid by their IOD, the same each time, and what they say they are."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scipy.ndimage import binary_erosion
from support import phantoms
from support.phantoms import PATIENTS, Phantom, Study
from support.phantoms_body import in_air
from support.phantoms_jpeg import lossy
from support.validators import dcentvfy, dciodvfy

from core.modelspec import InputSpec
from workers.images.build import build_stacks
from workers.images.read import read_series

VOLUMES = phantoms.every_volume()
IMAGES = phantoms.every_image()
BROKEN_BETWEEN_INSTANCES: dict[str, Callable[[], Phantom]] = {
    "missing slice": lambda: phantoms.ct("missing slice"),
    "duplicates": lambda: phantoms.ct("duplicates"),
    "two time points": lambda: phantoms.ct("two time points"),
    "echoes": lambda: phantoms.mr("echoes"),
    "b-values": lambda: phantoms.mr("b-values"),
    "enhanced echoes": lambda: phantoms.enhanced_mr(echoes=2),
}
# dicom3tools expects three samples for each pixel; subsampled they are two (PS3.3 C.7.6.3.1.2).
UNKNOWN_TO_DCIODVFY = ("PixelData has incorrect value length", "<YBR_FULL_422>")


def cine() -> Phantom:
    return lossy(phantoms.us("RGB", 2))


def cut_out() -> Phantom:
    return in_air(phantoms.ct("mirrored"))


@pytest.mark.parametrize("kind", [*VOLUMES, *IMAGES, *BROKEN_BETWEEN_INSTANCES])
def test_dciodvfy_finds_no_error(kind: str, tmp_path: Path) -> None:
    known = {**VOLUMES, **IMAGES}
    phantom = known[kind] if kind in known else BROKEN_BETWEEN_INSTANCES[kind]()
    paths = phantom.write(tmp_path)
    for path in (paths[0], paths[-1]):
        errors = dciodvfy(path)
        if "YBR_FULL_422" in kind:
            errors = [line for line in errors if not any(x in line for x in UNKNOWN_TO_DCIODVFY)]
        assert errors == []


def test_the_validators_do_find_errors(tmp_path: Path) -> None:
    one, other = phantoms.ct().datasets[:2]
    del one.RescaleSlope
    other.PatientName = "Somebody^Else"
    paths = phantoms.write([one, other], tmp_path)
    assert any("RescaleSlope" in line for line in dciodvfy(paths[0]))
    assert any("PatientName" in line for line in dcentvfy(paths))


@pytest.mark.parametrize("make", [cine, cut_out], ids=["JPEG", "in air"])
def test_dciodvfy_finds_no_error_in_changed_phantoms(
    make: Callable[[], Phantom], tmp_path: Path
) -> None:
    path = make().write(tmp_path)[0]
    assert dciodvfy(path) == []


def test_jpeg_keeps_the_picture_nearly() -> None:
    plain, made = phantoms.us("RGB", 2).datasets[0].pixel_array, cine().datasets[0].pixel_array
    assert made.shape == plain.shape
    assert np.abs(made.astype(float) - plain).mean() < 3


def test_air_is_on_all_sides_and_the_lesion_stays() -> None:
    phantom = cut_out()
    stored = np.stack([item.pixel_array for item in phantom.datasets]) - 1024.0
    edges = (stored[:, 0], stored[:, -1], stored[:, :, 0], stored[:, :, -1])
    assert all((edge == -1000).all() for edge in edges)
    assert stored[phantom.mask].mean() == pytest.approx(phantom.lesion_value, rel=0.02)


def test_kinds_of_one_study_agree_about_it(tmp_path: Path) -> None:
    """dcentvfy: one patient, one study, and series that are consistent in themselves."""
    many = [VOLUMES["CT plain"], VOLUMES["PET"], VOLUMES["Enhanced MR"], IMAGES["MG L"]]
    paths = [path for n, made in enumerate(many) for path in made.write(tmp_path / str(n))]
    assert dcentvfy(paths) == []


def test_the_same_call_makes_the_same_bytes() -> None:
    assert as_bytes(phantoms.pet().datasets[0]) == as_bytes(phantoms.pet().datasets[0])
    other = phantoms.pet(Study(seed=2)).datasets[0]
    assert other.SOPInstanceUID != phantoms.pet().datasets[0].SOPInstanceUID


@pytest.mark.parametrize("kind", VOLUMES)
def test_the_lesion_lies_where_it_is_said_to(kind: str) -> None:
    """Values read back by the attributes of each instance alone, without the phantom's grid."""
    phantom = VOLUMES[kind]
    places, values = points_and_values(phantom.datasets)
    inside = phantom.lesion_at(places)
    assert inside.sum() == phantom.mask.sum()
    assert values[inside].mean() == pytest.approx(phantom.lesion_value, rel=0.02)
    assert values[~inside].mean() == pytest.approx(phantom.background_value, rel=0.02)


@pytest.mark.parametrize("kind", IMAGES)
def test_the_disc_is_drawn(kind: str) -> None:
    phantom = IMAGES[kind]
    (dataset,) = phantom.datasets
    shown = dataset.pixel_array
    colour = dataset.SamplesPerPixel == 3
    frames = shown.reshape(-1, *shown.shape[-3 if colour else -2 :])
    assert frames.shape[:3] == phantom.mask.shape
    # away from the edge, where pixels of subsampled colour share it with their neighbours
    near = np.ones((1, 5, 5), dtype=bool)
    inside = frames[binary_erosion(phantom.mask, near)]
    outside = frames[binary_erosion(~phantom.mask, near)]
    assert len(np.unique(inside, axis=0)) == len(np.unique(outside, axis=0)) == 1
    if colour:
        luminance = (0.299, 0.587, 0.114)  # pydicom gives RGB
        assert inside[0] @ luminance == pytest.approx(phantom.lesion_value, abs=1.5)
        assert outside[0] @ luminance == pytest.approx(phantom.background_value, abs=1.5)
    else:
        assert inside[0] != outside[0]


@pytest.mark.parametrize("kind", VOLUMES)
def test_the_workshop_reads_a_volume_as_it_was_drawn(kind: str, tmp_path: Path) -> None:
    phantom = VOLUMES[kind]
    assert phantom.grid is not None
    (stack,) = stacks(phantom, "volume", tmp_path)
    assert stack.affine is not None
    at = np.moveaxis(np.indices(stack.array.shape), 0, -1) @ stack.affine[:3, :3].T
    inside = phantom.lesion_at(at + stack.affine[:3, 3])
    assert inside.sum() == phantom.mask.sum()
    scale = phantom.suv_per_value or 1.0
    expected = phantom.lesion_value * scale, phantom.background_value * scale
    found = stack.array[inside].mean(), stack.array[~inside].mean()
    assert found == pytest.approx(expected, rel=0.01)
    assert stack.unit.value == ("g/ml{SUVbw}" if phantom.suv_per_value else phantom.unit)
    assert stack.spacing_mm == pytest.approx(phantom.grid.spacing_mm, rel=1e-5)


@pytest.mark.parametrize("kind", IMAGES)
def test_the_workshop_reads_an_image_as_it_was_drawn(kind: str, tmp_path: Path) -> None:
    phantom = IMAGES[kind]
    (stack,) = stacks(phantom, "image", tmp_path)
    assert stack.array.shape == phantom.mask.shape
    assert stack.affine is None
    expected = phantom.lesion_value, phantom.background_value
    found = stack.array[phantom.mask].mean(), stack.array[~phantom.mask].mean()
    assert found == pytest.approx(expected, abs=0.6)
    known = [calibration for calibration in stack.calibrations if calibration.basis != "detector"]
    if phantom.pixel_mm is None:
        assert known == []
    else:
        (held,) = stack.calibrations
        assert (held.row_mm, held.column_mm) == pytest.approx(phantom.pixel_mm)


def test_a_mirrored_volume_is_the_same_body() -> None:
    plain, mirrored = VOLUMES["CT plain"], VOLUMES["CT mirrored"]
    assert np.array_equal(plain.mask, mirrored.mask[:, :, ::-1])


@pytest.mark.parametrize("language", PATIENTS)
def test_names_survive_a_file(language: str, tmp_path: Path) -> None:
    patient = PATIENTS[language]
    (path,) = phantoms.sc(study=Study(patient=patient)).write(tmp_path)
    read = pydicom.dcmread(path)
    assert str(read.PatientName) == patient.name
    assert dciodvfy(path) == []


@pytest.mark.parametrize("encoding", phantoms.ENCODINGS)
@pytest.mark.parametrize("kind", ["CT signed", "US RGB 3", "SC u8", "SC PALETTE COLOR 1"])
def test_an_encoding_changes_no_pixel(encoding: str, kind: str) -> None:
    original = {**VOLUMES, **IMAGES}[kind].datasets[0]
    made = phantoms.encoded(original, encoding)
    read = pydicom.dcmread(BytesIO(as_bytes(made)))
    assert read.file_meta.TransferSyntaxUID == phantoms.ENCODINGS[encoding]
    assert np.array_equal(read.pixel_array, original.pixel_array)
    assert read.SOPInstanceUID == original.SOPInstanceUID


def stacks(phantom: Phantom, kind: Literal["volume", "image"], folder: Path) -> tuple:
    spec = InputSpec(modality=("CT",), kind=kind)
    return build_stacks(read_series(phantom.write(folder)), spec, max_voxels=10**7)


def as_bytes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def points_and_values(datasets: list[Dataset]) -> tuple[np.ndarray, np.ndarray]:
    """Each voxel's centre, (n, 3) LPS mm (PS3.3 C.7.6.2.1.1), and its rescaled value, (n,)."""
    places, values = [], []
    for dataset in datasets:
        frames = dataset.pixel_array
        if "PerFrameFunctionalGroupsSequence" in dataset:
            shared = dataset.SharedFunctionalGroupsSequence[0]
            groups = dataset.PerFrameFunctionalGroupsSequence
        else:
            shared, groups, frames = None, [None], frames[None]
        for frame, group in zip(frames, groups, strict=True):
            position, orientation, spacing, slope, intercept = placed(dataset, shared, group)
            row, column = np.indices(frame.shape)
            along, down = np.array(orientation[:3]), np.array(orientation[3:])
            place = np.array(position) + column[..., None] * spacing[1] * along
            places.append((place + row[..., None] * spacing[0] * down).reshape(-1, 3))
            values.append((frame * slope + intercept).reshape(-1))
    return np.concatenate(places), np.concatenate(values)


def placed(dataset: Dataset, shared: Dataset | None, group: Dataset | None) -> tuple:
    """Position, orientation, pixel spacing, slope and intercept of a frame."""
    if shared is None or group is None:
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        where = dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
        return (*([float(v) for v in part] for part in where), float(slope), float(intercept))
    name = "PixelValueTransformationSequence"
    values = (group if name in group else shared)[name][0]
    where = (
        group.PlanePositionSequence[0].ImagePositionPatient,
        shared.PlaneOrientationSequence[0].ImageOrientationPatient,
        shared.PixelMeasuresSequence[0].PixelSpacing,
    )
    found = [[float(v) for v in part] for part in where]
    return (*found, float(values.RescaleSlope), float(values.RescaleIntercept))
