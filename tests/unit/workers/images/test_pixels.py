"""Stored pixels of every depth, sign and colour come out as they went in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels.utils import compress
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from core.errors import DecodeError, NotApplicableError
from workers.images.build import build_stacks

BARS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)


def one(make, dataset):
    (stack,) = build_stacks([dataset], make.images, max_voxels=make.room)
    return stack


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([8, 10, 12, 14, 16]),
    signed=st.booleans(),
    inverted=st.booleans(),
    overlay=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_grey_of_every_depth(make, bits, signed, inverted, overlay, seed):
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    values = np.random.default_rng(seed).integers(low, high, (4, 6), endpoint=True)
    stored = values.astype(("i" if signed else "u") + ("1" if bits == 8 else "2"))
    if overlay and 8 < bits < 16:
        # An old overlay in a bit that the pixel does not use (PS3.5 8.1.1).
        raw = stored.view(np.uint16) & ((1 << bits) - 1) | (1 << 15)
        stored = raw.view(stored.dtype)
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    image = make.image(stored, bits=bits, modality="DX", PhotometricInterpretation=photometric)
    stack = one(make, image)
    assert stack.array.dtype == np.float32
    assert np.array_equal(stack.array[0], low + high - values if inverted else values)
    assert stack.color is None


def test_monochrome1_is_turned_after_its_rescale_but_never_in_a_unit(make):
    stored = np.array([[0, 1000, 4095]], np.uint16)
    inverted = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2}
    inverted["RescaleIntercept"] = -100
    stack = one(make, make.image(stored, bits=12, modality="CR", **inverted))
    assert stack.array[0, 0].tolist() == [8090, 6090, -100]
    stack = one(make, make.image(stored, bits=12, modality="CT", **inverted))
    assert stack.array[0, 0].tolist() == [-100, 1900, 8090]


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("depth", [8, 16])
def test_rgb(make, planar, depth):
    stored = np.repeat(BARS[:, None], 6, axis=1).astype(f"u{depth // 8}") << (depth - 8)
    image = make.image(stored, bits=depth, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    if planar:
        image.PlanarConfiguration = 1
        image.PixelData = np.ascontiguousarray(np.moveaxis(stored, -1, 0)).tobytes()
    stack = one(make, image)
    assert np.array_equal(stack.color[0], np.repeat(BARS[:, None], 6, axis=1))
    assert np.allclose(stack.array[0, :, 0], [76.245, 149.685, 29.07, 255], atol=1e-3)


def test_ybr_in_four_two_two(make):
    # Y1 Y2 Cb Cr for two red pixels (PS3.3 C.7.6.3.1.2).
    image = make.image(
        np.zeros((2, 2, 3), np.uint8),
        bits=8,
        SamplesPerPixel=3,
        PhotometricInterpretation="YBR_FULL_422",
    )
    image.PixelData = bytes([76, 76, 85, 255] * 2)
    stack = one(make, image)
    assert np.abs(stack.color.astype(int) - [255, 0, 0]).max() <= 2
    assert np.allclose(stack.array, 76, atol=1)


@pytest.mark.parametrize(("entry_bits", "padded"), [(8, False), (8, True), (16, False), (16, True)])
def test_a_palette(make, entry_bits, padded):
    """Entries of 8 or 16 bits; 8 in 16 bits; 16 bit entries that hold only 8."""
    planes = {"Red": [0, 255, 0], "Green": [0, 0, 255], "Blue": [9, 0, 0]}
    stored = np.array([[0, 5, 6, 7, 200, 5]], np.uint8)
    image = make.image(stored, bits=8, PhotometricInterpretation="PALETTE COLOR")
    for colour, entries in planes.items():
        setattr(image, f"{colour}PaletteColorLookupTableDescriptor", [3, 5, entry_bits])
        wide = np.array(entries, np.uint16) * (256 if entry_bits == 16 and not padded else 1)
        data = wide if entry_bits == 16 or padded else np.array([*entries, 0], np.uint8)
        setattr(image, f"{colour}PaletteColorLookupTableData", data.tobytes())
    stack = one(make, image)
    first, red, green = [0, 0, 9], [255, 0, 0], [0, 255, 0]
    assert stack.color[0, 0].tolist() == [first, first, red, green, green, first]


def test_a_palette_that_is_too_short_is_a_decode_error(make):
    image = make.image(
        np.zeros((2, 2), np.uint8), bits=8, PhotometricInterpretation="PALETTE COLOR"
    )
    with pytest.raises(DecodeError, match="no palette"):
        one(make, image)
    for colour in ("Red", "Green", "Blue"):
        setattr(image, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(image, f"{colour}PaletteColorLookupTableData", b"\0" * 20)
    with pytest.raises(DecodeError, match="Red table is shorter"):
        one(make, image)


def test_floats_are_read(make):
    values = np.array([[0.5, -2.25], [1e6, 3]], np.float32)
    image = make.image(values.view(np.uint32))
    data, image.BitsAllocated = image.PixelData, 32
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(image, keyword)
    image.FloatPixelData = data
    assert np.array_equal(one(make, image).array[0], values)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_frames_are_those_that_went_in(make, syntax, signed):
    array = np.random.default_rng(1).integers(0, 4000, (3, 64, 64)) - (2000 if signed else 0)
    stored = array.astype(np.int16 if signed else np.uint16)
    image = make.image(stored, bits=13)
    compress(image, syntax, encoding_plugin="pylibjpeg" if syntax == RLELossless else "")
    assert np.array_equal(one(make, image).array, array)


def test_big_endian(make):
    values = np.array([[1, 2], [300, 40000]], np.uint16)
    image = make.image(values)
    image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    image.PixelData = values.astype(">u2").tobytes()
    assert np.array_equal(one(make, image).array[0], values)


def test_video_and_unknown_colours_are_not_applicable(make):
    image = make.image(np.zeros((2, 2), np.uint8), bits=8)
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    with pytest.raises(NotApplicableError, match="video"):
        one(make, image)
    image = make.image(np.zeros((2, 2), np.uint8), bits=8, PhotometricInterpretation="CMYK")
    with pytest.raises(NotApplicableError, match="CMYK"):
        one(make, image)


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.1", "1.2.3", "1.2.840.10008.1.2.8.1"])
def test_a_transfer_syntax_that_is_none_is_a_decode_error(make, uid):
    image = make.image(np.zeros((2, 2), np.uint8), bits=8)
    image.file_meta.TransferSyntaxUID = uid
    with pytest.raises(DecodeError, match="cannot be decoded"):
        one(make, image)


def test_pixels_without_a_transfer_syntax_are_a_decode_error(make):
    image = make.image(np.zeros((2, 2), np.uint8), bits=8)
    del image.file_meta.TransferSyntaxUID
    with pytest.raises(DecodeError, match="transfer syntax"):
        one(make, image)
