"""Segmentations as other people's programs see them: a validator and two readers, not ours."""

import gzip
import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
)
from scipy.spatial.transform import Rotation
from support import stacks
from support.peers import require_program

from workers.images.stack import ImageStack
from workers.results.encode import to_bytes
from workers.results.read_seg import read_seg
from workers.results.seg import build_segs

KINDS = ("binary", "labelmap", "fractional")
OBLIQUE = Rotation.from_euler("xyz", (20, -35, 70), degrees=True).as_matrix()
VOLUME = stacks.volume()
SOURCES = {
    "CT": VOLUME,
    "oblique": stacks.volume(rotation=OBLIQUE),
    "tilted gantry": stacks.volume(shear=0.6),
    "Enhanced CT": stacks.volume(multi_frame=True),
    "slices missing": stacks.volume(missing=(2,)),
    "one slice": stacks.volume((1, 12, 10)),
    "rows of odd length": stacks.volume((5, 7, 9)),
    "no frame of reference": stacks.volume(frame_of_reference_uid=""),
    "localisers": replace(
        VOLUME,
        affine=None,
        frames=(
            *VOLUME.frames[:4],
            replace(VOLUME.frames[4], orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)),
        ),
    ),
    "ultrasound clip": stacks.clip(),
    "secondary captures": stacks.images(),
    "lossy CR": stacks.images(
        (1, 12, 10),
        ComputedRadiographyImageStorage,
        Modality="CR",
        PatientOrientation=["L", "F"],
        LossyImageCompression="01",
        LossyImageCompressionRatio=12,
        LossyImageCompressionMethod="ISO_10918_1",
    ),
    "mammograms": stacks.images(
        (2, 12, 10), DigitalMammographyXRayImageStorageForPresentation, Modality="MG"
    ),
}


def encoded(stack: ImageStack, label_map: np.ndarray, kind: str = "binary") -> bytes:
    """The SEG of one part as Part 10 bytes; probability 0.75 everywhere."""
    analysis = stacks.analysis((stack, label_map), site=stacks.BREAST, laterality=stacks.LEFT)
    likely = np.full((1, *label_map.shape), 0.75, dtype=np.float16)
    analysis = replace(analysis, parts=(replace(analysis.parts[0], probabilities=likely),))
    (seg,) = build_segs(analysis, stacks.PROVENANCE, kind=kind)
    return to_bytes(seg)


def label_map_of(stack: ImageStack, segments: int = 3) -> np.ndarray:
    return stacks.labelled(stack.array.shape, segments)


def assert_same_voxels(array, affine, label_map, stack):
    """`array` and `affine` (index to LPS, mm) say what the label map and the stack say.

    A reader may cut empty slices off and may count slices the other way.
    """
    assert np.count_nonzero(array) == np.count_nonzero(label_map)
    found = np.argwhere(array)
    places = np.linalg.inv(stack.affine) @ affine @ np.c_[found, np.ones(len(found))].T
    indices = np.rint(places[:3]).astype(int)
    assert np.abs(places[:3] - indices).max() < 1e-3
    assert np.array_equal(array[tuple(found.T)], label_map[tuple(indices)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", SOURCES)
def test_dciodvfy_finds_no_error(source, kind, tmp_path):
    stack = SOURCES[source]
    path = tmp_path / "seg.dcm"
    path.write_bytes(encoded(stack, label_map_of(stack), kind))
    said = subprocess.run(
        [require_program("dciodvfy"), path], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Segmentation" in said.stderr + said.stdout
    assert "Error" not in said.stderr + said.stdout, said.stderr


def from_dcmqi(path: Path, folder: Path, kind: str = "binary"):
    """Label map (x, y, z) and its affine, as segimage2itkimage reads it."""
    folder.mkdir()
    done = subprocess.run(
        [require_program("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", folder,
         "-t", "nrrd"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    # one file for each segment, but a label map in one
    merged, affine = 0, None
    files = sorted(folder.glob("*.nrrd"), key=lambda file: int(file.stem))
    for number, file in enumerate(files, 1):
        array, affine = read_nrrd(file)
        merged = merged + (array if kind == "labelmap" else (array > 0) * number)
    return merged, affine


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("CT", "binary"),
        ("oblique", "binary"),
        ("oblique", "labelmap"),
        ("Enhanced CT", "binary"),
        ("slices missing", "binary"),
        ("rows of odd length", "binary"),
        ("rows of odd length", "labelmap"),
    ],
)
def test_dcmqi_reads_the_same_array_and_affine(source, kind, tmp_path):
    stack = SOURCES[source]
    label_map = label_map_of(stack)
    label_map[1] = 0  # a frame that is left out
    path = tmp_path / "seg.dcm"
    path.write_bytes(encoded(stack, label_map, kind))
    assert_same_voxels(*from_dcmqi(path, tmp_path / "out", kind), label_map, stack)


@st.composite
def cases(draw):
    """A volume anywhere in space, and a label map of it."""
    shape = tuple(draw(st.integers(1, most)) for most in (6, 11, 13))
    spacing = tuple(draw(st.floats(0.1, 9)) for _ in range(3))
    angles = [draw(st.floats(-180, 180)) for _ in range(3)]
    stack = stacks.volume(
        shape,
        spacing=spacing,
        rotation=Rotation.from_euler("zyx", angles, degrees=True).as_matrix(),
        origin=[draw(st.floats(-1500, 1500)) for _ in range(3)],
        multi_frame=draw(st.booleans()),
    )
    count = draw(st.integers(1, min(4, int(np.prod(shape)))))
    label_map = stacks.labelled(shape, count, draw(st.integers(0, 99)))
    for index in draw(st.sets(st.integers(1, 5))):  # the first has them all, if it has room
        if index < shape[0] and np.unique(label_map[0]).size > count:
            label_map[index] = 0
    return stack, label_map


ROUND_TRIP = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@ROUND_TRIP
@given(case=cases(), kind=st.sampled_from(("binary", "labelmap")))
def test_highdicom_reads_the_same_array_and_affine(case, kind):
    stack, label_map = case
    data = encoded(stack, label_map, kind)
    seg = highdicom.seg.segread(io.BytesIO(data))
    volume = seg.get_volume(combine_segments=True)
    assert_same_voxels(volume.array, volume.affine, label_map, stack)
    assert np.array_equal(read_seg(pydicom.dcmread(io.BytesIO(data)), stack), label_map)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_dcmqi_reads_any_volume(case, tmp_path_factory):
    stack, label_map = case
    folder = tmp_path_factory.mktemp("dcmqi")
    (folder / "seg.dcm").write_bytes(encoded(stack, label_map))
    assert_same_voxels(*from_dcmqi(folder / "seg.dcm", folder / "out"), label_map, stack)


@pytest.mark.parametrize("source", ["Enhanced CT", "CT", "ultrasound clip", "secondary captures",
                                    "no frame of reference", "localisers"])  # fmt: skip
def test_highdicom_finds_each_frame_by_its_source(source):
    """The way of viewers that overlay a frame on the image that it refers to."""
    stack = SOURCES[source]
    label_map = label_map_of(stack)
    seg = highdicom.seg.segread(io.BytesIO(encoded(stack, label_map)))
    first = stack.present[0]
    if first.multi_frame:
        pixels = seg.get_pixels_by_source_frame(
            str(first.dataset.SOPInstanceUID),
            [frame.number for frame in stack.present],
            combine_segments=True,
        )
    else:
        uids = [str(frame.dataset.SOPInstanceUID) for frame in stack.present]
        pixels = seg.get_pixels_by_source_instance(uids, combine_segments=True)
    assert np.array_equal(pixels, label_map)


def test_highdicom_reads_probabilities():
    stack = SOURCES["CT"]
    label_map = label_map_of(stack)
    seg = highdicom.seg.segread(io.BytesIO(encoded(stack, label_map, "fractional")))
    likely = seg.get_volume(rescale_fractional=True)
    assert set(np.unique(likely.array)) == {0, np.float32(191 / 255)}  # 0.75 in 8 bits
    for number in (1, 2, 3):
        array = (likely.array[..., number - 1] > 0) * number
        expected = np.where(label_map == number, number, 0)
        assert_same_voxels(array, likely.affine, expected, stack)


def test_a_tilted_volume_lies_where_its_slices_lie(tmp_path):
    """Readers of even boxes refuse it or draw it upright; each frame has its own place."""
    stack = SOURCES["tilted gantry"]
    seg = pydicom.dcmread(io.BytesIO(encoded(stack, label_map_of(stack))))
    (measures,) = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.5)
    for group in seg.PerFrameFunctionalGroupsSequence:
        (derivation,) = group.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        (frame,) = (
            f for f in stack.present if f.dataset.SOPInstanceUID == source.ReferencedSOPInstanceUID
        )
        assert group.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(frame.position)


def read_nrrd(path):
    """Array indexed (x, y, z) and its affine in LPS, mm, of a NRRD file."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(
        line.split(": ", 1)
        for line in head.decode().splitlines()
        if ": " in line and line[0] != "#"
    )
    assert fields["space"] == "left-posterior-superior"
    sizes = [int(size) for size in fields["sizes"].split()]
    vectors = [
        json.loads(text.replace("(", "[").replace(")", "]"))
        for text in (*fields["space directions"].split(" "), fields["space origin"])
    ]
    affine = np.eye(4)
    affine[:3] = np.array(vectors).T
    kinds = {"short": "<i2", "unsigned short": "<u2", "unsigned char": "u1"}
    raw = gzip.decompress(body) if fields["encoding"] == "gzip" else body
    return np.frombuffer(raw, kinds[fields["type"]]).reshape(sizes, order="F"), affine
