import io
import random

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless

from cli.phantom import write_phantom_study
from core.errors import DecodeError, NotApplicableError, ResultError
from workers.volume import SeriesVolume, axial_axes, build_volume, read_series, to_axial

SMALL = {"slices": 8, "shape": (40, 32), "series": ("FLAIR",)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_phantom_study(tmp_path_factory.mktemp("phantom"), **SMALL)


@pytest.fixture
def datasets(study):
    return read_series(study.files("FLAIR"))


@pytest.mark.parametrize("oblique", [False, True])
def test_slices_are_sorted_by_geometry_whatever_order_they_come_in(tmp_path, oblique):
    study = write_phantom_study(tmp_path, **SMALL, oblique=oblique)
    files = list(study.files("FLAIR"))
    expected = np.stack([pydicom.dcmread(path).pixel_array for path in files])
    random.Random(3).shuffle(files)
    volume = build_volume(read_series(files))
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, expected)
    assert np.allclose(volume.affine, study.affine, atol=1e-4)
    assert volume.spacing_mm == pytest.approx((5.0, 5.76, 5.76))
    assert not any("PixelData" in dataset for dataset in volume.datasets)


def test_series_are_read_from_paths_streams_and_bytes(study):
    path, *rest = study.files("FLAIR")
    content = rest[0].read_bytes()
    found = read_series([path, io.BytesIO(content), content])
    assert [ds.SOPInstanceUID for ds in found[1:]] == [found[1].SOPInstanceUID] * 2


def test_rescale_is_applied(datasets):
    stored = build_volume([pydicom.dcmread(io.BytesIO(_bytes(ds))) for ds in datasets]).array
    for dataset in datasets:
        dataset.RescaleSlope, dataset.RescaleIntercept = "2.5", "-100"
    assert np.allclose(build_volume(datasets).array, stored * 2.5 - 100)


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("missing slice", "slices are missing: 10.00 mm"),
        ("uneven spacing", "not evenly spaced"),
        ("mixed orientation", "several orientations"),
        ("duplicate positions", "lie where another one lies"),
        ("no frame of reference", "Frame of Reference"),
    ],
)
def test_what_is_no_even_stack_is_refused_with_its_reason(tmp_path, flaw, reason):
    study = write_phantom_study(tmp_path, **SMALL, flaw=flaw)
    with pytest.raises(NotApplicableError, match=reason):
        build_volume(read_series(study.files("FLAIR")))


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("NumberOfFrames", 2, "multi-frame"),
        ("PhotometricInterpretation", "RGB", "colour"),
        ("PixelSpacing", None, "PixelSpacing"),
        ("ImagePositionPatient", None, "ImagePositionPatient"),
        ("PixelSpacing", [1, 1], "different pixel spacings"),
        ("Rows", 41, "different sizes"),
        ("FrameOfReferenceUID", "1.2.3", "different frames of reference"),
    ],
)
def test_one_odd_image_is_named_as_the_reason(datasets, keyword, value, reason):
    setattr(datasets[2], keyword, value)
    with pytest.raises(NotApplicableError, match=reason):
        build_volume(datasets)


def test_a_sheared_stack_is_refused(datasets):
    for number, dataset in enumerate(datasets):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, f"{float(y) + number:.4f}", z]
    with pytest.raises(NotApplicableError, match="sheared"):
        build_volume(datasets)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_images_of_two_patients_or_series_never_become_one_volume(datasets, keyword):
    setattr(datasets[1], keyword, "1.2.3")
    with pytest.raises(ResultError, match=keyword):
        build_volume(datasets)


def test_no_images_and_one_image(datasets):
    with pytest.raises(NotApplicableError, match="no images"):
        build_volume([])
    assert build_volume(datasets[:1]).spacing_mm[0] == 5.0


def test_bytes_that_are_no_dicom_are_a_decode_error():
    with pytest.raises(DecodeError, match="file 1 of 1"):
        read_series([b"this is no DICOM file"])


def test_pixels_that_end_early_or_are_garbage_are_a_decode_error(datasets):
    datasets[3].PixelData = datasets[3].PixelData[:-10]
    with pytest.raises(DecodeError, match="slice 4"):
        build_volume(datasets)


def test_compressed_garbage_is_a_decode_error(datasets):
    datasets[0].file_meta.TransferSyntaxUID = JPEG2000Lossless
    datasets[0].PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51garbage."])
    datasets[0]["PixelData"].is_undefined_length = True
    with pytest.raises(DecodeError, match="slice 1"):
        build_volume(datasets)


def test_an_axial_volume_is_already_upright(datasets):
    volume = build_volume(datasets)
    view = to_axial(volume)
    assert np.array_equal(view.array, volume.array)
    assert view.spacing_mm == volume.spacing_mm


@st.composite
def volumes(draw):
    """A volume of random shape, spacing and rotation, some of them upright to the degree."""
    shape = tuple(draw(st.tuples(*[st.integers(1, 5)] * 3)))
    spacing = tuple(draw(st.tuples(*[st.sampled_from([0.5, 1.0, 3.3])] * 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    if draw(st.booleans()):
        rotation = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    array = rng.random(shape, dtype=np.float32)
    return SeriesVolume(array, affine, spacing, (), "1.2.3")


@given(volumes())
def test_axial_and_back_gives_every_voxel_back(volume):
    view = to_axial(volume)
    assert np.array_equal(view.to_source(view.array), volume.array)
    channels = np.stack([view.array, 1 - view.array])
    assert np.array_equal(view.to_source(channels)[1], 1 - volume.array)


@given(volumes())
def test_axial_axes_run_the_way_they_are_named(volume):
    order, flips = axial_axes(volume.affine)
    assert sorted(order) == [0, 1, 2]
    signs = [-1 if axis in flips else 1 for axis in range(3)]
    directions = volume.affine[:3, list(order)] * signs
    # Rows of the reversed matrix are z (head), y (posterior), x (left).
    assert (np.diag(directions[::-1]) > 0).all()
    view = to_axial(volume)
    assert view.spacing_mm == tuple(volume.spacing_mm[axis] for axis in order)
    assert view.array.shape == tuple(volume.array.shape[axis] for axis in order)


def test_a_sagittal_series_comes_out_head_up():
    # Slices right to left, rows head to foot, columns anterior to posterior.
    affine = np.array([[4.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    array = np.zeros((3, 5, 7), dtype=np.float32)
    array[2, 0, 6] = 1  # left, head, posterior
    view = to_axial(SeriesVolume(array, affine, (4.0, 1.0, 1.0), (), "1.2.3"))
    assert view.array.shape == (5, 7, 3)
    assert view.spacing_mm == (1.0, 1.0, 4.0)
    assert view.array[4, 6, 2] == 1


def _bytes(dataset):
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()
