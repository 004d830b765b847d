"""What the image viewer draws: frames as numbers, their order, outlines of segmentations."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from support.phantoms import ENCODINGS, cr, ct, dx, encoded, enhanced_mr, sc_colour, us

from core.errors import DecodeError
from node.web.pages.imaging.frame import Drawable, read_frame
from node.web.pages.imaging.outlines import Border, border_of, read_outlines
from node.web.pages.imaging.stack import arrange


def written(dataset: Dataset, folder: Path) -> Path:
    path = folder / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def numbers(frame: Drawable) -> np.ndarray:
    """What the browser makes of it, as values that windows are given in."""
    if frame.type == "rgb":
        return np.frombuffer(frame.data, np.uint8).reshape(frame.rows, frame.columns, 3)
    stored = np.frombuffer(frame.data, np.dtype(frame.type).newbyteorder("<"))
    return stored.reshape(frame.rows, frame.columns) * frame.slope + frame.intercept


def test_ct_is_in_hounsfield_units_with_its_own_window(tmp_path: Path) -> None:
    dataset = ct().datasets[3]
    frame = read_frame(written(dataset, tmp_path), 1)
    expected = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    np.testing.assert_allclose(numbers(frame), expected)
    assert frame.windows[0][1:] == (float(dataset.WindowCenter), float(dataset.WindowWidth))
    assert not frame.inverted


def test_monochrome1_and_an_inverse_shape_are_shown_inverted(tmp_path: Path) -> None:
    assert read_frame(written(cr().datasets[0], tmp_path), 1).inverted
    assert read_frame(written(dx(inverse=True).datasets[0], tmp_path), 1).inverted
    assert not read_frame(written(dx().datasets[0], tmp_path), 1).inverted


def test_each_frame_of_colour_ultrasound_is_rgb(tmp_path: Path) -> None:
    for kind in ("RGB", "PALETTE COLOR"):
        dataset = us(kind, frames=3).datasets[0]
        path = written(dataset, tmp_path)
        shown = [numbers(read_frame(path, number)) for number in (1, 2, 3)]
        assert all(item.shape == (dataset.Rows, dataset.Columns, 3) for item in shown)
        if kind == "RGB":
            np.testing.assert_array_equal(np.stack(shown), dataset.pixel_array)
    with pytest.raises(DecodeError, match="no frame 4"):
        read_frame(path, 4)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_same_numbers(tmp_path: Path, encoding: str) -> None:
    dataset = ct().datasets[0]
    plain = numbers(read_frame(written(dataset, tmp_path), 1))
    other = numbers(read_frame(written(encoded(dataset, encoding), tmp_path), 1))
    np.testing.assert_array_equal(other, plain)


def test_values_that_do_not_fit_sixteen_bits_lose_less_than_a_step(tmp_path: Path) -> None:
    dataset = ct().datasets[0]
    rows, columns = dataset.Rows, dataset.Columns
    values = np.linspace(-3.0, 7.5, rows * columns, dtype=np.float32).reshape(rows, columns)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    del dataset.WindowCenter, dataset.WindowWidth, dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.BitsAllocated, dataset.FloatPixelData = 32, values.tobytes()
    frame = read_frame(written(dataset, tmp_path), 1)
    np.testing.assert_allclose(numbers(frame), values, atol=10.5 / 65535)
    ((_, centre, width),) = frame.windows
    assert -3 < centre - width / 2 < centre + width / 2 < 7.5


def test_what_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    path = tmp_path / "bad.dcm"
    path.write_bytes(b"no DICOM")
    with pytest.raises(DecodeError):
        read_frame(path, 1)
    dataset = ct().datasets[0]
    dataset.PixelData = dataset.PixelData[:10]
    with pytest.raises(DecodeError):
        read_frame(written(dataset, tmp_path), 1)
    dataset.Rows = dataset.Columns = 65535
    with pytest.raises(DecodeError, match="not drawn"):
        read_frame(written(dataset, tmp_path), 1)


@settings(deadline=None, max_examples=20)
@given(st.randoms(use_true_random=False))
def test_slices_are_sorted_along_their_normal_however_they_came(random: object) -> None:
    datasets = list(enumerate(ct("oblique").datasets))
    random.shuffle(datasets)  # type: ignore[attr-defined]
    stack = arrange(datasets)
    order = [frame.instance for frame in stack.frames]
    assert order in (sorted(order), sorted(order, reverse=True))
    places = [frame.place for frame in stack.frames if frame.place is not None]
    assert places == sorted(places)
    assert len(places) == len(datasets)
    assert stack.orientation is not None


def test_two_echoes_do_not_alternate() -> None:
    first, second = ct().datasets, ct().datasets
    for offset, datasets in ((0, first), (100, second)):
        for number, dataset in enumerate(datasets):
            dataset.InstanceNumber = offset + number
    mixed = [item for pair in zip(first, second, strict=True) for item in pair]
    stack = arrange(list(enumerate(mixed)))
    order = [frame.instance % 2 for frame in stack.frames]
    assert order == sorted(order)


def test_multi_frame_images_name_their_frames_and_know_their_place() -> None:
    dataset = enhanced_mr().datasets[0]
    stack = arrange([(7, dataset)])
    assert {frame.instance for frame in stack.frames} == {7}
    assert sorted(frame.frame for frame in stack.frames) == list(
        range(1, int(dataset.NumberOfFrames) + 1)
    )
    assert all(frame.multi for frame in stack.frames)
    assert stack.spacing is not None
    plain = arrange([(1, sc_colour().datasets[0])])
    assert not plain.frames[0].multi
    assert plain.orientation is None


def test_pixels_of_ultrasound_are_as_high_as_its_region_says() -> None:
    assert arrange([(1, us().datasets[0])]).aspect == pytest.approx(1.5)


def test_headers_that_make_no_sense_are_no_trouble() -> None:
    odd = Dataset()
    odd.Rows, odd.Columns = 4, 4
    odd.SOPInstanceUID = "1.2"
    odd.PixelSpacing = ["0", "0"]
    odd.ImageOrientationPatient = ["0"] * 6
    odd.ImagePositionPatient = ["1", "2", "3"]
    stack = arrange([(1, odd), (2, Dataset())])
    assert len(stack.frames) == 1
    assert (stack.spacing, stack.aspect, stack.orientation) == (None, 1.0, None)
    assert arrange([]).frames == ()


def filled(border: Border, shape: tuple[int, int]) -> np.ndarray:
    """The pixels inside a border: crossing a vertical piece goes in or out."""
    flips = np.zeros((shape[0], shape[1] + 1), dtype=int)
    for x, y0, y1 in np.reshape(border.down, (-1, 3)):
        flips[y0:y1, x] += 1
    return np.cumsum(flips, axis=1)[:, :-1] % 2 == 1


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_a_border_encloses_exactly_the_pixels_of_its_mask(mask: np.ndarray) -> None:
    if not mask.any():
        return
    border = border_of(mask, 1)
    np.testing.assert_array_equal(filled(border, mask.shape), mask)
    # the same by the other direction
    turned = Border(1, border.down, border.across, border.box)
    np.testing.assert_array_equal(filled(turned, mask.T.shape), mask.T)
    rows, columns = np.nonzero(mask)
    assert border.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_outlines_of_a_segmentation_lie_on_its_images(tmp_path: Path, kind: str) -> None:
    images = ct().datasets
    rows, columns = images[0].Rows, images[0].Columns
    mask = np.zeros((len(images), rows, columns), dtype=np.uint8)
    mask[2, 3:9, 4:11] = 1
    mask[3, 5:7, 1:3] = 1
    algorithm = hd.AlgorithmIdentificationSequence(
        name="x", family=codes.DCM.ArtificialIntelligence, version="1"
    )
    segment = hd.seg.SegmentDescription(
        1, "Läsion", codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC", algorithm,
        display_color=hd.color.CIELabColor.from_rgb(40, 200, 90),
    )  # fmt: skip
    options = {} if kind == "LABELMAP" else {"omit_empty_frames": True}
    seg = hd.seg.Segmentation(
        images, mask.astype(float) if kind == "FRACTIONAL" else mask, kind, [segment],
        "1.2.3.9", 1, "1.2.3.9.1", 1, "x", "x", "1", "1", **options,
    )  # fmt: skip
    outlines = read_outlines(written(seg, tmp_path))
    assert outlines.segments[0][:2] == (1, "Läsion")
    np.testing.assert_allclose(outlines.segments[0][2], (40, 200, 90), atol=3)
    expected = {
        str(image.SOPInstanceUID): plane
        for image, plane in zip(images, mask, strict=True)
        if plane.any()
    }
    assert set(outlines.borders) == set(expected)
    for image, plane in expected.items():
        (border,) = outlines.borders[image]
        np.testing.assert_array_equal(filled(border, plane.shape), plane > 0)


def test_what_is_no_segmentation_says_so(tmp_path: Path) -> None:
    with pytest.raises(DecodeError):
        read_outlines(written(ct().datasets[0], tmp_path))
