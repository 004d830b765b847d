"""What is read, and what is refused before it takes memory."""

import io
import tracemalloc

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from core.errors import DecodeError, NotApplicableError
from workers.images.build import build_stacks
from workers.images.codestream import declared
from workers.images.read import check_size, read_series


def part10(dataset):
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def local(name):
    """One of pydicom's own files, never fetched."""
    return get_testdata_file(name, read=True, download=False)


def test_series_are_read_from_paths_streams_and_bytes(make, tmp_path):
    content = part10(make.image(np.zeros((2, 2), np.uint16)))
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    found = read_series([path, io.BytesIO(content), content])
    assert [ds.SOPInstanceUID for ds in found] == [found[0].SOPInstanceUID] * 3


@pytest.mark.parametrize("content", [b"", b"this is no DICOM file", b"\0" * 200])
def test_bytes_that_are_no_dicom_are_a_decode_error(content):
    with pytest.raises(DecodeError, match="file 1 of 1"):
        read_series([content])


def test_a_deflated_bomb_is_not_inflated(make):
    image = make.image(np.zeros((3000, 3000), np.uint16))
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = part10(image)
    assert len(content) < 50_000
    tracemalloc.start()
    with pytest.raises(NotApplicableError, match="deflated"):
        read_series([content], max_inflated=10_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    assert read_series([content], max_inflated=20_000_000)[0].Rows == 3000


def test_more_pixels_than_allowed_are_refused_unread(make):
    images = [make.image(np.zeros((2, 10, 10), np.uint16), number=n) for n in (1, 2)]
    check_size(images, 400)
    with pytest.raises(NotApplicableError, match=r"declares 400 pixels .* 399 that"):
        check_size(images, 399)


@pytest.mark.parametrize("compressed", [False, True])
def test_frames_that_the_bytes_cannot_hold_are_refused(make, compressed):
    image = make.image(np.zeros((2, 10, 10), np.uint16))
    if compressed:
        image.file_meta.TransferSyntaxUID = JPEG2000Lossless
        image.PixelData = encapsulate([b"\0" * 20] * 2)
    image.NumberOfFrames = 1_000_000
    tracemalloc.start()
    with pytest.raises(DecodeError, match="1000000 frames are declared"):
        build_stacks([image], make.images, max_voxels=10**10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_frames_that_are_not_described_are_refused(make):
    image = make.enhanced(np.zeros((4, 3, 3), np.uint16), make.affine())
    image.PerFrameFunctionalGroupsSequence.pop()
    with pytest.raises(DecodeError, match="3 are described"):
        build_stacks([image], make.volume, max_voxels=make.room)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("MR_small_jp2klossless.dcm", (64, 64, 1)),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64, 1)),
        ("JPGExtended.dcm", (1024, 256, 1)),
        ("SC_rgb_jpeg_gdcm.dcm", (100, 100, 3)),
        ("examples_jpeg2k.dcm", (480, 640, 3)),
    ],
)
def test_a_codestream_that_declares_another_image_is_not_decoded(make, monkeypatch, name, size):
    dataset = local(name)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    assert declared(frame) == size
    dataset.Rows, dataset.Columns = 8, 8
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.as_array", None)
    with pytest.raises(DecodeError, match="its data set says 8 × 8"):
        build_stacks([dataset], make.images, max_voxels=make.room)


def test_rle_segments_are_counted(make):
    dataset = local("MR_small_RLE.dcm")
    dataset.BitsAllocated = 32
    with pytest.raises(DecodeError, match="2 RLE segments, not 4"):
        build_stacks([dataset], make.images, max_voxels=make.room)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize(
    "stream", [b"\xff\x4f\xff\x51garbage.", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\0", b"nothing!"]
)
def test_compressed_garbage_is_a_decode_error(make, syntax, stream):
    image = make.image(np.zeros((4, 4), np.uint16))
    image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = encapsulate([stream])
    with pytest.raises(DecodeError, match="image 1"):
        build_stacks([image], make.images, max_voxels=make.room)


def test_too_many_frames_are_refused_however_small(make):
    images = [make.image(np.zeros((10_000, 1, 1), np.uint8), bits=8, number=n) for n in (1, 2)]
    check_size(images, 10**9)
    more = make.image(np.zeros((1, 1), np.uint8), bits=8, number=3)
    with pytest.raises(NotApplicableError, match="20,001 frames, more than the 20,000"):
        check_size([*images, more], 10**9)
