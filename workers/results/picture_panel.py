"""The text beside an image of the picture: what was found, how large, by which model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from core.domain import Finding, FindingKind, Measurement
from core.modelspec import Code
from workers.analysis import Analysis
from workers.images.stack import Basis, ImageStack
from workers.lesions.concepts import (
    AREA,
    LONG_AXIS,
    MAXIMUM,
    MEAN,
    PEAK,
    SHORT_AXIS,
    STANDARD_DEVIATION,
    TOTAL_LESION_GLYCOLYSIS,
    VOLUME,
)
from workers.results.picture_text import font, plain, wrapped, writable
from workers.results.provenance import Provenance

PANEL_WIDTH = 320
PICTURE_NOTICE = "AI result, not for diagnosis without review"

_MAP_CAPTION = "Right: where the model looked, for the class it holds most probable in this image."
_OF_SIZES = ("pixel spacing", "in pixels", "at the detector", "magnification")
_MARGIN = 12
_MOST_REMARK_LINES = 14
_WHITE, _GREY, _YELLOW = (235, 235, 235), (160, 160, 160), (255, 220, 120)

# UCUM, as people write it
_UNITS = {
    "1": "",
    "[hnsf'U]": "HU",
    "g/ml{SUVbw}": "SUVbw",
    "{SUVbw}g/ml": "SUVbw",
    "{pixels}": "px",
    "[px]": "px",
    "mm2": "mm²",
    "{pixels}2": "px²",
    "cm2": "cm²",
    "mm3": "mm³",
    "cm3": "cm³",
    "mm2/s": "mm²/s",
}


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    size: int = 13
    color: tuple[int, int, int] = _WHITE
    bold: bool = False
    space: int = 0  # above it, in pixels

    @property
    def height(self) -> int:
        return self.space + round(self.size * 1.3)


def draw_panel(
    analysis: Analysis,
    provenance: Provenance,
    *,
    part: int,
    index: int,
    shown: Sequence[Finding],
    height: int,
    page: tuple[int, int, int],
) -> Image.Image:
    """The panel beside frame `index` of a part, `PANEL_WIDTH` × `height` pixels.

    `shown` are the findings on the image, `page` its number, how many there are, and how many
    findings have no page. What does not fit is counted; the remarks and the notice always fit.
    """
    panel = Image.new("RGB", (PANEL_WIDTH, height), (16, 16, 16))
    draw = ImageDraw.Draw(panel)
    top = _write(draw, _head(analysis, provenance, part, index, page), _MARGIN)
    foot = _foot(analysis, part)
    bottom = height - _MARGIN - sum(line.height for line in foot)
    _write(draw, foot, bottom)
    blocks = _blocks(analysis, part, shown)
    for number, block in enumerate(blocks):
        rest = _Line(f"and {len(blocks) - number} more on this image", 12, _GREY, space=8)
        needed = sum(line.height for line in block)
        last = number == len(blocks) - 1
        if top + needed + (0 if last else rest.height) > bottom:
            _write(draw, [rest], top)
            break
        top = _write(draw, block, top)
    return panel


def figures(measurements: Sequence[Measurement]) -> list[str]:
    """The measurements that matter most, a line each."""
    lines = []
    for name, code in (("volume", VOLUME), ("area", AREA)):
        size = _measured(measurements, code)
        if size is not None:
            lines.append(f"{name} {_quantity(size)}")
            break
    long, short = _measured(measurements, LONG_AXIS), _measured(measurements, SHORT_AXIS)
    if long is not None and short is not None:
        lines.append(f"{_number(long.value)} × {_quantity(short)}")
    elif long is not None:
        lines.append(f"longest diameter {_quantity(long)}")
    mean = _derived(measurements, MEAN)
    if mean is not None:
        spread = _derived(measurements, STANDARD_DEVIATION)
        extra = f" (SD {_number(spread.value)})" if spread is not None else ""
        lines.append(f"mean {_quantity(mean)}{extra}")
    peak, most = _derived(measurements, PEAK), _derived(measurements, MAXIMUM)
    if peak is not None and most is not None:
        lines.append(f"max {_quantity(most)}, peak {_quantity(peak)}")
    glycolysis = _measured(measurements, TOTAL_LESION_GLYCOLYSIS)
    if glycolysis is not None:
        lines.append(f"TLG {_quantity(glycolysis)}")
    return lines


def size_remark(stack: ImageStack) -> str:
    """What the sizes on the picture rest on, where that must be said; else empty."""
    if stack.is_volume:
        return ""
    if not stack.calibrations:
        return "No pixel spacing: sizes are in pixels."
    bases = {known.basis for known in stack.calibrations}
    if Basis.DETECTOR in bases:
        return "Sizes are at the detector, larger than in the patient."
    if Basis.MAGNIFIED in bases:
        return "Sizes rest on the estimated magnification."
    return ""


def _head(
    analysis: Analysis, provenance: Provenance, part: int, index: int, page: tuple[int, int, int]
) -> list[_Line]:
    spec = provenance.spec
    stack = analysis.parts[part].stack
    title = wrapped(plain(spec.title), font(15, bold=True), PANEL_WIDTH - 2 * _MARGIN)[:3]
    lines = [_Line(text, 15, bold=True) for text in title]
    revision = f", revision {provenance.revision}" if provenance.revision > 1 else ""
    lines.append(_Line(f"{spec.name} {spec.version}{revision}", 12, _GREY))
    name = "slice" if stack.is_volume else "image"
    place = f"{name} {index + 1} of {len(stack.frames)}"
    if len(analysis.parts) > 1:
        place = f"part {part + 1} of {len(analysis.parts)}, {place}"
    number, count, hidden = page
    if count > 1:
        place = f"{place} (page {number} of {count})"
    lines.append(_Line(place, 12, _GREY))
    if hidden and number == count:
        lines.append(_Line(f"{hidden} smaller finding(s) without a page", 12, _GREY))
    return lines


def _foot(analysis: Analysis, part: int) -> list[_Line]:
    remarks = list(analysis.remarks)
    remark = size_remark(analysis.parts[part].stack) if analysis.lesions else ""
    if remark and not any(_alike(remark, said) for said in remarks):
        remarks.append(remark)
    if analysis.left_out:
        remarks.append(f"{analysis.left_out} smaller finding(s) are not listed.")
    lines: list[_Line] = []
    for said in remarks:
        texts = wrapped(plain(said), font(11), PANEL_WIDTH - 2 * _MARGIN)
        lines += [
            _Line(text, 11, _WHITE, space=6 if place == 0 else 0)
            for place, text in enumerate(texts)
        ]
    if len(lines) > _MOST_REMARK_LINES:
        lines = [*lines[: _MOST_REMARK_LINES - 1], _Line("… more in the report", 11, _GREY)]
    notice = wrapped(PICTURE_NOTICE, font(14, bold=True), PANEL_WIDTH - 2 * _MARGIN)
    lines += [
        _Line(text, 14, _YELLOW, bold=True, space=10 if place == 0 else 0)
        for place, text in enumerate(notice)
    ]
    return lines


def _alike(remark: str, said: str) -> bool:
    """Whether `said` says the same as `remark` in its own words: once is enough."""
    return any(words in remark and words in said for words in _OF_SIZES)


def _blocks(analysis: Analysis, part: int, shown: Sequence[Finding]) -> list[list[_Line]]:
    """The lines of each finding; for a classifier all its classes."""
    classes = [
        finding for finding in analysis.findings if finding.kind is FindingKind.CLASSIFICATION
    ]
    blocks = [_lesion(finding) for finding in shown if finding.kind is FindingKind.LESION]
    blocks += [_class(finding) for finding in classes]
    blocks += [_structure(finding) for finding in shown if finding.kind is FindingKind.STRUCTURE]
    if classes and analysis.parts[part].activation is not None:
        width = PANEL_WIDTH - 2 * _MARGIN
        blocks.append(
            [
                _Line(text, 11, _GREY, space=12 if place == 0 else 0)
                for place, text in enumerate(wrapped(_MAP_CAPTION, font(11), width))
            ]
        )
    if not any(finding.present for finding in analysis.findings) and analysis.findings:
        blocks.insert(0, [_Line("nothing found", 15, _WHITE, bold=True, space=14)])
    return blocks


def _lesion(finding: Finding) -> list[_Line]:
    label = finding.label if writable(finding.label) else finding.type.meaning
    side = f", {finding.laterality.meaning.lower()}" if finding.laterality else ""
    width = PANEL_WIDTH - 2 * _MARGIN
    number = "" if label.endswith(f" {finding.number}") else f"{finding.number}: "
    heading = wrapped(plain(f"{number}{label}{side}"), font(14, bold=True), width)[:2]
    lines = [
        _Line(text, 14, finding.color, bold=True, space=12 if place == 0 else 0)
        for place, text in enumerate(heading)
    ]
    lines += [_Line(text) for text in figures(finding.measurements)]
    if finding.probability is not None:
        lines.append(_Line(f"certainty of the model {finding.probability:.0%}", 12, _GREY))
    return lines


def _class(finding: Finding) -> list[_Line]:
    label = finding.label if writable(finding.label) else finding.type.meaning
    sure = "" if finding.probability is None else f": {finding.probability:.0%}"
    said = "present" if finding.present else "absent"
    color = finding.color if finding.present else _WHITE
    width = PANEL_WIDTH - 2 * _MARGIN
    lines = [
        _Line(text, 14, color, bold=finding.present, space=10 if place == 0 else 0)
        for place, text in enumerate(
            wrapped(plain(f"{label}{sure}, {said}"), font(14, bold=True), width)
        )
    ]
    looked = [reading.value.meaning.lower() for reading in finding.evaluations]
    if looked:
        where = wrapped(plain(f"looked at: {', '.join(looked)}"), font(12), width)
        lines += [_Line(text, 12, _GREY) for text in where]
    return lines


def _structure(finding: Finding) -> list[_Line]:
    """Anatomy: its name in its colour, and its size."""
    label = finding.label if writable(finding.label) else finding.type.meaning
    sizes = [line for line in figures(finding.measurements) if line.startswith(("volume", "area"))]
    return [_Line(plain(label), 13, finding.color, space=12), *(_Line(text) for text in sizes)]


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[_Line], top: int) -> int:
    """Write `lines` from `top` on; gives where they end."""
    for line in lines:
        place = (_MARGIN, top + line.space)
        draw.text(place, line.text, fill=line.color, font=font(line.size, bold=line.bold))
        top += line.height
    return top


def _measured(measurements: Sequence[Measurement], code: Code) -> Measurement | None:
    return next((one for one in measurements if one.concept.value == code.value), None)


def _derived(measurements: Sequence[Measurement], code: Code) -> Measurement | None:
    return next(
        (one for one in measurements if one.derivation and one.derivation.value == code.value), None
    )


def _quantity(measurement: Measurement) -> str:
    unit = _UNITS.get(measurement.unit.value, measurement.unit.value)
    return f"{_number(measurement.value)} {plain(unit)}".rstrip()


def _number(value: float) -> str:
    """Three figures, without an exponent where that can be read."""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"
