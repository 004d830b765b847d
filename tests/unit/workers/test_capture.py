"""The Secondary Capture: pixels, references and history; and page by page for old archives."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from support.analyses import PROVENANCE, analysed, images, lesions, volume
from support.peers import require_program

from core.domain import IDENTITY_KEYWORDS
from core.errors import ResultError
from workers.analysis import Analysis
from workers.results.capture import SC_SERIES_NUMBER, build_capture, single_captures
from workers.results.encode import to_bytes
from workers.results.picture import Page, Shown, draw_pages

CT = "1.2.840.10008.5.1.4.1.1.2"
MULTI_FRAME, SINGLE_FRAME = "1.2.840.10008.5.1.4.1.1.7.4", "1.2.840.10008.5.1.4.1.1.7"


def errors(made: Dataset, folder: Path) -> list[str]:
    """What dciodvfy calls an error."""
    import subprocess

    path = folder / f"{made.SOPInstanceUID}.dcm"
    path.write_bytes(to_bytes(made))
    program = require_program("dciodvfy", str(Path(pydicom.__file__).parents[4] / "bin"))
    done = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def analysis(**attributes: Any) -> Analysis:
    boxes = [(slice(z, z + 2), slice(20, 30), slice(20, 30)) for z in (2, 6)]
    return analysed(lesions(volume(**attributes), boxes))


def capture(of: Analysis | None = None, provenance: Any = PROVENANCE) -> Dataset:
    of = of or analysis()
    return build_capture(draw_pages(of, provenance), of, provenance)


def read(made: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(to_bytes(made)))


@pytest.mark.parametrize(
    "of",
    [
        analysis(),
        analysis(multi_frame=True),
        analysis(Laterality="L", BodyPartExamined="KNEE"),
        analysis(BodyPartExamined="BRAIN", AccessionNumber=None, PatientBirthDate=None),
        analysed(lesions(volume(), [(slice(2, 4), slice(20, 30), slice(20, 30))])),
        analysed(
            lesions(
                images((3, 50, 41), color=True, Modality="US"),
                [(slice(1, 2), slice(20, 30), slice(20, 30))],
            )
        ),
    ],
    ids=["two pages", "multi-frame", "sided", "brain", "one page", "ultrasound"],
)
def test_dciodvfy_finds_no_error(of: Analysis, tmp_path: Path) -> None:
    made = capture(of)
    assert errors(made, tmp_path) == []
    for single in single_captures(read(made)):
        assert errors(single, tmp_path) == []


def test_the_pixels_are_the_pages() -> None:
    of = analysis()
    pages = draw_pages(of, PROVENANCE)
    made = read(build_capture(pages, of, PROVENANCE))
    assert np.array_equal(made.pixel_array, np.stack([page.rgb for page in pages]))
    assert made.SOPClassUID == MULTI_FRAME
    assert made.NumberOfFrames == 2
    assert made.PageNumberVector == [1, 2]
    assert (made.PhotometricInterpretation, made.PlanarConfiguration) == ("RGB", 0)
    assert "PresentationLUTShape" not in made
    assert list(made.ImageType) == ["DERIVED", "SECONDARY"]
    assert (made.ConversionType, made.SeriesNumber) == ("WSD", SC_SERIES_NUMBER)
    assert "PixelSpacing" not in made  # it is no longer the source's grid


def test_every_page_names_the_image_that_it_shows() -> None:
    made = capture()
    assert [
        (item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID, "ReferencedFrameNumber" in item)
        for item in made.SourceImageSequence
    ] == [("1.2.3.4.4", CT, False), ("1.2.3.4.8", CT, False)]
    frames = capture(analysis(multi_frame=True)).SourceImageSequence
    assert [item.ReferencedFrameNumber for item in frames] == [4, 8]


def test_identity_is_the_sources_and_the_maker_is_named() -> None:
    of = analysis()
    made = read(capture(of))
    for keyword in IDENTITY_KEYWORDS:
        assert made.get(keyword) == of.source.get(keyword)
    assert made.PatientName == "Phantom^山田"
    assert made.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == (
        "109102"
    )
    assert made.SeriesDescription == PROVENANCE.description
    assert "FrameOfReferenceUID" not in made


def test_the_same_job_makes_the_same_bytes_and_another_job_others() -> None:
    assert to_bytes(capture()) == to_bytes(capture())
    other = capture(provenance=replace(PROVENANCE, job_id="job-2"))
    assert other.SOPInstanceUID != capture().SOPInstanceUID
    assert other.SeriesInstanceUID != other.SOPInstanceUID


@pytest.mark.parametrize(
    ("attributes", "burned"),
    [
        ({}, "NO"),
        ({"BurnedInAnnotation": "NO"}, "NO"),
        ({"BurnedInAnnotation": "YES"}, "YES"),
        ({"Modality": "US"}, "YES"),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, "NO"),
        ({"ConversionType": "DF"}, "YES"),
        ({"Modality": ["CT", "PT"]}, "NO"),
        ({"Modality": ["CT", "US"]}, "YES"),
        ({"BurnedInAnnotation": ["NO", "YES"]}, "YES"),
    ],
)
def test_it_identifies_the_patient_only_where_the_source_may(
    attributes: dict[str, Any], burned: str
) -> None:
    assert capture(analysis(**attributes)).BurnedInAnnotation == burned


def test_what_was_lossy_once_stays_lossy() -> None:
    plain = capture()
    assert plain.LossyImageCompression == "00"
    lossy = capture(
        analysis(
            LossyImageCompression="01",
            LossyImageCompressionRatio=12.5,
            LossyImageCompressionMethod="ISO_10918_1",
            RecognizableVisualFeatures="YES",
        )
    )
    assert lossy.LossyImageCompression == "01"
    assert lossy.LossyImageCompressionRatio == 12.5
    assert lossy.LossyImageCompressionMethod == "ISO_10918_1"
    assert lossy.RecognizableVisualFeatures == "YES"


@pytest.mark.parametrize(
    ("ratio", "method", "written"),
    [
        (b"10,5", b"ISO_10918_1", {"LossyImageCompressionMethod"}),
        (b"10:1", b"ISO_10918_1", {"LossyImageCompressionMethod"}),
        (b"-1", b"", set()),
        (b"10", b"jpeg baseline lossy method", {"LossyImageCompressionRatio"}),
        (b"10.12345678901234567", b"JPEG\\", {"LossyImageCompressionRatio"}),
    ],
)
def test_faulty_values_of_lossy_images_are_left_out(
    ratio: bytes, method: bytes, written: set[str], tmp_path: Path
) -> None:
    of = analysis(LossyImageCompression="01")
    for dataset in of.datasets:
        for keyword, vr, value in (
            ("LossyImageCompressionRatio", "DS", ratio),
            ("LossyImageCompressionMethod", "CS", method),
        ):
            raw = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)
            dataset[raw.tag] = raw
    made = capture(of)
    assert made.LossyImageCompression == "01"
    assert set(made.dir("LossyImageCompression")) == {"LossyImageCompression", *written}
    assert errors(made, tmp_path) == []


def test_a_picture_of_something_else_is_refused() -> None:
    of = analysis()
    (page, other) = draw_pages(of, PROVENANCE)
    with pytest.raises(ResultError, match="not analysed"):
        build_capture([Page(page.rgb, (Shown("9.9", CT, None),))], of, PROVENANCE)
    with pytest.raises(ResultError, match="one size"):
        build_capture([page, Page(other.rgb[:-2], other.shows)], of, PROVENANCE)
    with pytest.raises(ResultError, match="at least one page"):
        build_capture([], of, PROVENANCE)


def test_single_captures_hold_one_page_each() -> None:
    stored = read(capture(analysis(multi_frame=True)))
    singles = [read(single) for single in single_captures(stored)]
    assert len(singles) == 2
    for number, single in enumerate(singles):
        assert single.SOPClassUID == SINGLE_FRAME
        assert np.array_equal(single.pixel_array, stored.pixel_array[number])
        assert single.InstanceNumber == number + 1
        assert not {"NumberOfFrames", "FrameIncrementPointer", "PageNumberVector"} & set(
            single.dir()
        )
        (source,) = single.SourceImageSequence
        assert source.ReferencedFrameNumber == stored.SourceImageSequence[number].get(
            "ReferencedFrameNumber"
        )
        for keyword in (*IDENTITY_KEYWORDS, "BurnedInAnnotation", "SeriesDescription"):
            assert single.get(keyword) == stored.get(keyword)
    assert len({single.SeriesInstanceUID for single in singles}) == 1
    assert singles[0].SeriesInstanceUID != stored.SeriesInstanceUID
    assert len({single.SOPInstanceUID for single in singles} | {stored.SOPInstanceUID}) == 3


@pytest.mark.parametrize("root", ["", "1.2.826.0.1.3680043.10.999"])
def test_single_captures_follow_from_the_stored_one(root: str) -> None:
    made = capture(provenance=replace(PROVENANCE, uid_root=root))
    stored = to_bytes(made)
    again = [
        [to_bytes(single) for single in single_captures(pydicom.dcmread(io.BytesIO(stored)))]
        for _ in range(2)
    ]
    assert again[0] == again[1]
    for single in single_captures(made):
        assert single.SOPInstanceUID.startswith((root or "2.25") + ".")
        assert len(single.SOPInstanceUID) <= 64
    assert to_bytes(made) == stored  # it was not changed


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (None, "Mueller^Hans"),
        ("ISO_IR 100", "Müller^Hans"),
        ("GB18030", "Zhang^XiaoDong=张^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 127", "قباني^لنزار"),
    ],
)
def test_names_survive_letter_for_letter(charset: Any, name: str) -> None:
    of = analysis(SpecificCharacterSet=charset, PatientName=name)
    stored = read(capture(of))
    raw = stored.get_item("PatientName").value
    assert isinstance(raw, bytes)
    (single, _) = (read(single) for single in single_captures(stored))
    assert single.get_item("PatientName").value == raw
    assert single.PatientName == stored.PatientName == name
    assert single.get("SpecificCharacterSet") == charset


@given(rows=st.integers(1, 7), columns=st.integers(1, 7), count=st.integers(1, 4))
def test_odd_sizes_survive_padding(rows: int, columns: int, count: int) -> None:
    of = analysed(lesions(volume((2, 16, 16)), [(slice(0, 1), slice(2, 4), slice(2, 4))]))
    rng = np.random.default_rng(rows)
    pages = [
        Page(
            rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8),
            (Shown("1.2.3.4.1", CT, None),),
        )
        for _ in range(count)
    ]
    stored = read(build_capture(pages, of, PROVENANCE))
    singles = [read(single) for single in single_captures(stored)]
    for page, single in zip(pages, singles, strict=True):
        assert np.array_equal(single.pixel_array, page.rgb)


def test_what_is_no_capture_is_not_taken_apart() -> None:
    with pytest.raises(ResultError, match="multi-frame true colour"):
        single_captures(analysis().source)
    made = capture()
    made.PixelData = made.PixelData[:100]
    with pytest.raises(ResultError, match="no pixels"):
        single_captures(made)
