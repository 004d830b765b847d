"""Headers that are broken in any way end in one of our errors, or are read; nothing else."""

import io
from copy import deepcopy

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.tag import Tag

from core.errors import DecodeError, SentinodeError
from core.modelspec import InputSpec
from workers.images.build import build_stacks

GARBAGE = [
    b"",
    b"xx",
    b"1A",
    b"-1 ",
    b"0 ",
    b"1e999 ",
    b"nan ",
    b"1\\2\\3\\4 ",
    b"99999999",
    b"\xff\xff",
]


@pytest.fixture(scope="module")
def bases(make):
    array = np.random.default_rng(1).integers(0, 99, (3, 4, 4)).astype(np.uint16)
    attributes = {"RescaleSlope": 1, "RescaleIntercept": 0, "EchoTime": 10, "Laterality": "R"}
    classic = make.slices(array, make.affine(), **attributes)
    palette = make.image(array[0].astype(np.uint8), bits=8, modality="US")
    palette.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        setattr(palette, f"{colour}PaletteColorLookupTableDescriptor", [4, 0, 8])
        setattr(palette, f"{colour}PaletteColorLookupTableData", b"\0\1\2\3")
    palette.SequenceOfUltrasoundRegions = [
        make.item(PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.1)
    ]
    return [_written(part) for part in (classic, [make.enhanced(array, make.affine())], [palette])]


def _written(datasets):
    found = []
    for dataset in datasets:
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        found.append(buffer.getvalue())
    return found


def _paths(dataset, path=()):
    """Every element of a data set, those of its sequences too."""
    for element in dataset:
        here = (*path, element.tag)
        yield here
        if element.VR == "SQ":
            for index, item in enumerate(element.value):
                yield from _paths(item, (*here, index))


def _break(dataset, path, value):
    for step in path[:-1]:
        dataset = dataset[step].value if isinstance(step, type(Tag(0))) else dataset[step]
    tag = path[-1]
    if value is None:
        del dataset[tag]
        return
    element = dataset.get_item(tag)
    raw = pydicom.dataelem.RawDataElement(tag, element.VR, len(value), value, 0, False, True)
    dataset._dict[tag] = raw


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_broken_headers(make, bases, data):
    base = data.draw(st.sampled_from(bases))
    datasets = [pydicom.dcmread(io.BytesIO(content)) for content in base]
    victim = data.draw(st.sampled_from(datasets))
    # Only headers: what the pixel data themselves may do is tried in test_read.
    paths = [path for path in _paths(deepcopy(victim)) if path[-1] != 0x7FE00010]
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2)):
        try:
            _break(victim, path, data.draw(st.sampled_from([None, *GARBAGE])))
        except (KeyError, IndexError, TypeError, AttributeError, OSError):
            continue  # an earlier break took its place away
    kind = data.draw(st.sampled_from(["volume", "image"]))
    try:
        stacks = build_stacks(
            datasets, InputSpec(modality=("MR",), kind=kind), max_voxels=make.room
        )
    except SentinodeError:
        return
    assert all(len(stack.array) == len(stack.frames) for stack in stacks)


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
@pytest.mark.parametrize("value", [None, ["1.2.3", "1.2.4"]])
def test_an_image_that_no_result_could_refer_to(make, keyword, value):
    array = np.zeros((3, 4, 4), dtype=np.uint16)
    datasets = make.slices(array, make.affine())
    for dataset in datasets:
        setattr(dataset, keyword, value)
    with pytest.raises(DecodeError, match=f"image 1 has no {keyword}"):
        build_stacks(datasets, InputSpec(modality=("MR",)), max_voxels=1_000)
