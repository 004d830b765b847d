"""The picture: the right images, outlines where the lesions are, and what people must read."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from support.analyses import (
    COLORS,
    HU,
    PROVENANCE,
    SPEC,
    absent,
    analysed,
    classified,
    header,
    images,
    lesions,
    measured,
    volume,
)

from workers.analysis import Analysis, Part
from workers.images.stack import Basis, Calibration, ImageFrame, ImageStack
from workers.results.picture import Page, Shown, draw_pages, png
from workers.results.picture_image import grey_window, render, side_letters
from workers.results.picture_panel import PANEL_WIDTH, PICTURE_NOTICE, figures, size_remark
from workers.results.picture_text import font, plain, wrapped, writable

Box = tuple[slice, slice, slice]


def box(z: int, y: int, x: int, size: int = 6) -> Box:
    return slice(z, z + 2), slice(y, y + size), slice(x, x + size)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is drawn."""
    texts: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def listen(self: Any, place: Any, text: str, **options: Any) -> None:
        texts.append(text)
        draw(self, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", listen)
    return texts


def colored(page: Page, color: tuple[int, int, int]) -> np.ndarray:
    """Where a colour is on the image's side of a page, (row, column)."""
    side = page.rgb[:, : page.rgb.shape[1] - PANEL_WIDTH]
    return np.argwhere((side == color).all(axis=-1))


def test_each_lesion_has_its_key_image_and_the_largest_comes_first() -> None:
    part = lesions(volume(), [box(8, 20, 20, 12), box(2, 30, 10), box(8, 45, 30)])
    pages = draw_pages(analysed(part), PROVENANCE)
    assert [page.shows for page in pages] == [
        (Shown("1.2.3.4.10", "1.2.840.10008.5.1.4.1.1.2", None),),
        (Shown("1.2.3.4.4", "1.2.840.10008.5.1.4.1.1.2", None),),
    ]
    assert len({page.rgb.shape for page in pages}) == 1
    assert {page.rgb.dtype for page in pages} == {np.dtype(np.uint8)}
    on_first = [len(colored(pages[0], color)) > 0 for color in COLORS[:3]]
    assert on_first == [True, False, True]


@settings(max_examples=15, deadline=None)
@given(
    row=st.integers(0, 58),
    column=st.integers(0, 42),
    spacing=st.tuples(st.floats(0.4, 2.0), st.floats(0.4, 2.0)),
)
def test_the_outline_lies_on_the_edge_of_the_lesion(
    row: int, column: int, spacing: tuple[float, float]
) -> None:
    """In the picture's pixels, whatever the pixels' shape; also at the image's edge."""
    stack = volume(spacing=(5, *spacing))
    part = lesions(stack, [box(4, row, column)], axes=None, label="x")
    part = replace(part, findings=(replace(part.findings[0], color=(1, 254, 3)),))
    (page,) = draw_pages(analysed(part), PROVENANCE)
    drawn = colored(page, (1, 254, 3))
    height, width = 64 * spacing[0], 48 * spacing[1]
    side = page.rgb.shape[0]
    scale = side / max(height, width)
    top, left = (side - height * scale) / 2, (side - width * scale) / 2
    edges = [
        top + row * spacing[0] * scale,
        left + column * spacing[1] * scale,
        top + (row + 6) * spacing[0] * scale,
        left + (column + 6) * spacing[1] * scale,
    ]
    # the number beside the outline has the same colour: leave out what lies beyond the edges
    outline = drawn[
        (drawn[:, 1] <= edges[3] + 2) & (drawn[:, 0] >= edges[0] - 2) & (drawn[:, 1] >= left)
    ]
    # find_contours cuts corners by half a pixel; lines are two pixels wide
    assert outline[:, 0].min() == pytest.approx(edges[0], abs=3.5)
    assert outline[:, 1].min() == pytest.approx(edges[1], abs=3.5)
    assert min(outline[:, 0].max(), side - 1) == pytest.approx(edges[2], abs=3.5)
    assert min(outline[:, 1].max(), side - 1) == pytest.approx(edges[3], abs=3.5)


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        ((1, 0, 0), "L"),
        ((-1, 0.1, 0), "R"),
        ((0, -1, 0), "A"),
        ((0, 0, -3), "F"),
        ((0, 0.8, 0.6), "PH"),
        ((0.6, -0.8, 0), "AL"),
    ],
)
def test_a_direction_is_named_by_the_side_it_points_to(
    direction: tuple[float, float, float], letters: str
) -> None:
    assert side_letters(np.array(direction, dtype=np.float64)) == letters


def test_the_sides_of_the_patient_are_written_on_a_volume(said: list[str]) -> None:
    axial = volume()
    draw_pages(analysed(Part(axial, np.zeros(axial.array.shape, np.uint16))), PROVENANCE)
    assert said[:4] == ["R", "L", "A", "P"]  # left, right, upper and lower edge
    said.clear()
    assert axial.affine is not None
    mirrored = replace(axial, affine=axial.affine * np.array([1, 1, -1, 1]))
    draw_pages(analysed(Part(mirrored, np.zeros(axial.array.shape, np.uint16))), PROVENANCE)
    assert said[:4] == ["L", "R", "A", "P"]
    said.clear()
    draw_pages(classified(images()), PROVENANCE)
    assert not {"L", "R", "A", "P", "H", "F"} & set(said)


def test_the_diameters_are_drawn_where_they_were_measured_only() -> None:
    part = lesions(volume(), [box(4, 20, 20, 16)])
    (finding,) = part.findings
    assert finding.axes is not None
    elsewhere = replace(finding, axes=replace(finding.axes, index=1))
    (with_axes,) = draw_pages(analysed(part), PROVENANCE)
    (without,) = draw_pages(analysed(replace(part, findings=(elsewhere,))), PROVENANCE)
    assert len(colored(with_axes, finding.color)) > len(colored(without, finding.color)) + 100


def test_the_panel_says_what_people_must_read(said: list[str]) -> None:
    part = lesions(volume(), [box(4, 20, 20), box(8, 20, 20)])
    remark = "11 of 12 images were analysed: 1 slice is missing."
    analysis = analysed(part, remarks=(remark,), left_out=3)
    draw_pages(analysis, replace(PROVENANCE, revision=2))
    text = " ".join(said)
    for words in (
        "Lesion 1, left",
        "volume 12.3 mL",
        "23.4 × 9.87 mm",
        "mean 45.6 HU",
        "certainty of the model 87%",
        "phantom-lesion 1.2.3, revision 2",
        "slice 6 of 12 (page 1 of 2)",
        "11 of 12 images",
        "3 smaller finding(s) are not listed.",
        "Phantom lesions – Läsionen",
    ):
        assert words in text, words
    assert text.count(PICTURE_NOTICE) == 2


@pytest.mark.parametrize("kind", ["lesions", "none", "classes"])
def test_no_patient_and_no_date_is_on_it(said: list[str], kind: str) -> None:
    secret = {"PatientName": "Secretname^A", "PatientID": "SECRETID", "StudyDate": "19991231"}
    stack = volume(**secret)
    analysis = {
        "lesions": lambda: analysed(lesions(stack, [box(4, 20, 20)])),
        "none": lambda: analysed(Part(stack, np.zeros(stack.array.shape, np.uint16))),
        "classes": lambda: classified(stack),
    }[kind]()
    draw_pages(analysis, PROVENANCE)
    text = " ".join(said).lower()
    for words in ("secret", "1999", "2025", "1.2.3.4"):
        assert words not in text
    assert PICTURE_NOTICE.lower() in text


def test_nothing_found_is_said_on_the_middle_of_a_volume(said: list[str]) -> None:
    stack = volume()
    missing = ImageStack(
        stack.array, (*stack.frames[:6], None, *stack.frames[7:]), stack.quantity, HU, stack.affine
    )
    (page,) = draw_pages(
        analysed(Part(missing, np.zeros(stack.array.shape, np.uint16))), PROVENANCE
    )
    assert "nothing found" in said
    assert page.shows[0].sop_instance_uid == "1.2.3.4.6"  # the one of index 6 did not come


def test_nothing_found_in_images_shows_up_to_four() -> None:
    stack = images((9, 20, 20))
    part = Part(stack, np.zeros(stack.array.shape, np.uint16))
    pages = draw_pages(analysed(part), PROVENANCE)
    assert [page.shows[0].sop_instance_uid[-1] for page in pages] == ["1", "4", "6", "9"]
    two = Part(images((2, 20, 20)), np.zeros((2, 20, 20), np.uint16))
    assert len(draw_pages(analysed(two), PROVENANCE)) == 2


def test_frames_of_one_instance_are_named_by_number() -> None:
    part = lesions(volume(multi_frame=True), [box(4, 20, 20)])
    (page,) = draw_pages(analysed(part), PROVENANCE)
    assert page.shows == (Shown("1.2.3.4.1", "1.2.840.10008.5.1.4.1.1.2.1", 6),)


def test_a_classifier_shows_the_image_beside_where_it_looked(said: list[str]) -> None:
    analysis = classified(images((3, 60, 60)), 1)
    (page,) = draw_pages(analysis, PROVENANCE)
    assert page.shows[0].sop_instance_uid == "1.2.3.4.2"
    side = page.rgb.shape[0]
    left, right = page.rgb[:, :side].astype(int), page.rgb[:, side + 4 : 2 * side + 4].astype(int)
    assert (left[..., 0] == left[..., 2]).all()  # grey
    warm = right[..., 0] > right[..., 2] + 50
    assert warm[: side // 4, : side // 4].all()
    assert not warm[side // 2 :].any()
    text = " ".join(said)
    assert "Pneumonia: 91%, present" in text
    assert "Effusion: 12%, absent" in text
    assert "nothing found" not in text


def test_a_classifier_that_finds_nothing_says_so_with_probabilities(said: list[str]) -> None:
    (page,) = draw_pages(classified(images((3, 60, 60)), 2, present=False), PROVENANCE)
    assert page.shows[0].sop_instance_uid == "1.2.3.4.3"  # the most probable class's
    assert "nothing found" in said
    assert "Pneumonia: 20%, absent" in said


def test_without_a_map_a_classifier_shows_one_image() -> None:
    (page,) = draw_pages(classified(images(), activation=False), PROVENANCE)
    assert page.rgb.shape[1] == page.rgb.shape[0] + PANEL_WIDTH


def test_color_stays_color() -> None:
    part = lesions(images(color=True), [(slice(0, 1), slice(2, 6), slice(2, 6))])
    (page,) = draw_pages(analysed(part), PROVENANCE)
    middle = page.rgb[page.rgb.shape[0] // 2, page.rgb.shape[0] // 2]
    assert middle.tolist() == [0, 0, 220]


def test_the_number_of_pages_is_bounded_and_the_rest_is_counted(said: list[str]) -> None:
    part = lesions(volume((30, 64, 48)), [box(2 * z, 20, 20) for z in range(14)])
    assert len(draw_pages(analysed(part), PROVENANCE)) == 12
    assert any("2 smaller finding(s) without a page" in text for text in said)
    assert len(draw_pages(analysed(part), PROVENANCE, max_pages=1)) == 1
    with pytest.raises(ValueError, match="0 pages"):
        draw_pages(analysed(part), PROVENANCE, max_pages=0)


def test_many_lesions_on_one_image_are_counted_where_they_do_not_fit(said: list[str]) -> None:
    boxes = [box(4, y, x, 4) for y in range(4, 60, 8) for x in range(4, 40, 8)]
    analysis = analysed(lesions(volume(), boxes), remarks=("A remark that is long. " * 60,))
    (page,) = draw_pages(analysis, PROVENANCE)
    assert any("more on this image" in text for text in said)
    assert "… more in the report" in said
    assert " ".join(said).count(PICTURE_NOTICE) == 1
    assert page.rgb.shape == (640, 960, 3)


def test_two_parts_show_their_own_images(said: list[str]) -> None:
    first = lesions(images((1, 40, 80)), [(slice(0, 1), slice(2, 9), slice(2, 9))])
    second = lesions(
        images((1, 80, 40), SeriesInstanceUID="1.2.3.5"),
        [(slice(0, 1), slice(2, 9), slice(2, 9))],
        part=1,
        first=2,
    )
    pages = draw_pages(analysed(first, second), PROVENANCE)
    assert len(pages) == 2
    assert pages[0].rgb.shape == pages[1].rgb.shape
    assert "part 2 of 2, image 1 of 1 (page 2 of 2)" in said


@pytest.mark.parametrize(
    ("calibrations", "words"),
    [
        ((), "No pixel spacing"),
        ((Calibration(0.2, 0.2, Basis.DETECTOR),), "at the detector"),
        ((Calibration(0.2, 0.2, Basis.MAGNIFIED),), "magnification"),
        ((Calibration(0.2, 0.2, Basis.PATIENT),), None),
    ],
)
def test_what_sizes_rest_on_is_said_once(
    said: list[str], calibrations: tuple[Calibration, ...], words: str | None
) -> None:
    part = lesions(images(calibrations=calibrations), [(slice(0, 1), slice(2, 6), slice(2, 6))])
    draw_pages(analysed(part), PROVENANCE)
    text = " ".join(said)
    if words is None:
        assert size_remark(part.stack) == ""
    else:
        assert text.count(words) == 1
        said.clear()
        draw_pages(analysed(part, remarks=(size_remark(part.stack),)), PROVENANCE)
        assert " ".join(said).count(words) == 1


def window_of(array: np.ndarray, unit: Any = HU, **attributes: Any) -> tuple[float, float]:
    frame = ImageFrame(header(1, **attributes))
    stack = ImageStack(array[None].astype(np.float32), (frame,), HU, unit)
    return grey_window(stack, [0])


RAMP = np.linspace(-1000, 1000, 10_000).reshape(100, 100)


def test_the_images_own_window_is_used_where_it_fits() -> None:
    assert window_of(RAMP, WindowCenter=50, WindowWidth=101) == (-0.5, 99.5)
    assert window_of(RAMP, WindowCenter=[50, 300], WindowWidth=[101, 2000]) == (-0.5, 99.5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 9000, "WindowWidth": 100},
        {"WindowCenter": 0, "WindowWidth": 1e6},
        {"WindowCenter": 0, "WindowWidth": 0},
        {"WindowCenter": 50},
        {"WindowCenter": 50, "WindowWidth": 100, "PhotometricInterpretation": "MONOCHROME1"},
        {},
    ],
)
def test_a_window_that_cannot_be_meant_is_not_used(attributes: dict[str, Any]) -> None:
    assert window_of(RAMP, **attributes) == (-160, 240)  # soft tissue


def as_stored(keyword: str, vr: str, value: str) -> RawDataElement:
    """An element as it comes from a file, before anybody looks at its value."""
    return RawDataElement(Tag(keyword), vr, len(value), value.encode(), 0, False, True)


@pytest.mark.parametrize(
    ("center", "width"),
    [
        ("40,5\\30,5", "100"),
        ("\\40", "100"),
        ("40", "abc\\1"),
        ("40", "1e400"),
        ("nan", "100"),
    ],
)
def test_a_window_that_cannot_be_read_is_not_used(center: str, width: str) -> None:
    dataset = header(1)
    dataset[Tag("WindowCenter")] = as_stored("WindowCenter", "DS", center)
    dataset[Tag("WindowWidth")] = as_stored("WindowWidth", "DS", width)
    stack = ImageStack(RAMP[None].astype(np.float32), (ImageFrame(dataset),), HU, HU)
    assert grey_window(stack, [0]) == (-160, 240)  # soft tissue


def test_a_window_in_other_units_is_not_used() -> None:
    suv = HU.model_copy(update={"value": "g/ml{SUVbw}"})
    low, high = window_of(RAMP / 200, suv, WindowCenter=2, WindowWidth=3)
    assert (low, high) == pytest.approx((-5, 5), abs=0.1)


def test_windows_of_enhanced_images_stand_in_their_groups() -> None:
    stack = volume(multi_frame=True)
    item = header()
    item.WindowCenter, item.WindowWidth = 0, 201
    group = header()
    group.FrameVOILUTSequence = [item]
    frame = stack.frames[0]
    assert frame is not None
    frame.dataset.SharedFunctionalGroupsSequence = [group]
    assert grey_window(stack, [3]) == (-100.5, 99.5)


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(4)])
def test_odd_images_are_drawn(values: np.ndarray) -> None:
    stack = replace(images((1, 4, 4)), array=values[None].astype(np.float32))
    low, high = grey_window(stack, [0])
    assert high > low
    assert render(stack, 0, (low, high), 32).size == (32, 32)


def test_pixels_without_a_size_keep_their_shape_by_aspect_ratio() -> None:
    assert render(images((1, 40, 40)), 0, (0, 1), 100).size == (100, 100)
    assert render(images((1, 40, 40), PixelAspectRatio=[2, 1]), 0, (0, 1), 100).size == (50, 100)
    known = images((1, 40, 40), calibrations=[Calibration(0.5, 1.0, Basis.PATIENT)])
    assert render(known, 0, (0, 1), 100).size == (100, 50)


def test_figures_say_area_where_there_is_no_volume() -> None:
    assert figures([measured("42798000", "Area", 123.4, "mm2")]) == ["area 123 mm²"]
    assert figures([measured("103339001", "Long Axis", 4.2, "{pixels}")]) == [
        "longest diameter 4.20 px"
    ]
    assert figures([]) == []
    spread = [
        measured("112031", "Attenuation Coefficient", -0.1234, "1", "373098007"),
        measured("112031", "Attenuation Coefficient", 12.0, "1", "386136009"),
    ]
    assert figures(spread) == ["mean -0.123 (SD 12.0)"]


def test_a_label_that_the_font_cannot_write_is_told_by_its_code(said: list[str]) -> None:
    part = lesions(volume(), [box(4, 20, 20)], label="病変")
    draw_pages(analysed(part), PROVENANCE)
    assert "1: Lesion, left" in said
    assert writable("Läsion µ² Поражение Łódź")
    assert not writable("病変")
    assert plain("ﾊ病") == "??"
    assert plain("x\u00a0y") == "x\u00a0y"


@given(st.text(max_size=80), st.integers(20, 300))
def test_text_is_wrapped_without_loss(text: str, width: int) -> None:
    face = font(12)
    lines = wrapped(text, face, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(face.getlength(line) <= width or len(line) == 1 for line in lines)


def test_the_sheet_holds_every_page() -> None:
    part = lesions(volume(), [box(2 * z, 20, 20) for z in range(3)])
    pages = draw_pages(analysed(part), PROVENANCE)
    sheet = np.asarray(Image.open(io.BytesIO(png(pages))))
    rows, columns = pages[0].rgb.shape[:2]
    assert sheet.shape == (2 * rows, 2 * columns, 3)
    assert np.array_equal(sheet[:rows, columns:], pages[1].rgb)
    assert np.array_equal(sheet[rows:, :columns], pages[2].rgb)
    assert Image.open(io.BytesIO(png(pages[:1]))).size == (columns, rows)
    with pytest.raises(ValueError, match="needs a page"):
        png([])


def test_the_same_analysis_is_the_same_picture() -> None:
    part = lesions(volume(), [box(4, 20, 20)])
    assert png(draw_pages(analysed(part), PROVENANCE)) == png(
        draw_pages(analysed(part), PROVENANCE)
    )


def test_only_what_is_shown_is_read() -> None:
    """A large volume takes no longer than the few slices that are drawn."""

    class Counting(np.ndarray):
        read: set[int] = set()  # noqa: RUF012

        def __getitem__(self, key: Any) -> Any:
            if self.ndim == 3:
                Counting.read.add(int(key))
            return super().__getitem__(key)

    part = lesions(volume((40, 64, 48)), [box(4, 20, 20), box(30, 20, 20)])
    watched = replace(
        part,
        stack=replace(part.stack, array=part.stack.array.view(Counting)),
        label_map=part.label_map.view(Counting),
    )
    began = time.perf_counter()
    draw_pages(Analysis(SPEC, (watched,), part.findings or (absent(),)), PROVENANCE)
    assert Counting.read == {5, 31}
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("value", ["1", "a\\b", "0\\1", "2\\1\\1", "-1\\-2"])
def test_an_aspect_ratio_that_cannot_be_meant_is_not_used(value: str) -> None:
    stack = images((1, 40, 40))
    frame = stack.frames[0]
    assert frame is not None
    frame.dataset[Tag("PixelAspectRatio")] = as_stored("PixelAspectRatio", "IS", value)
    assert render(stack, 0, (0, 1), 100).size == (100, 100)
