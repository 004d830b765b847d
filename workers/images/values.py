"""From stored values to values in a unit: rescale, modality LUT, real world value maps, SUV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from core.errors import DecodeError, NotApplicableError
from core.modelspec import Code
from workers.images import concepts
from workers.images.attributes import first_item, items, number, numbers, text, value_of
from workers.images.frames import Frame
from workers.images.pixels import Stored, is_color, is_inverted, luminance, stored_range
from workers.images.stack import Floats
from workers.images.suv import suv_factor

Table = npt.NDArray[np.float64]

_LARGEST_LUT = 1 << 16
# (246205007, SCT, "Quantity"); its older code in SRT.
_QUANTITY = frozenset({"246205007", "G-C1C6"})


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A map from stored values, those from `first` to `last`, to values.

    Attributes:
        table: the value of each stored value from `first` on; None for slope and intercept.
    """

    first: float
    last: float
    slope: float = 1.0
    intercept: float = 0.0
    table: Table | None = None

    def at(self, stored: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Values; a table's ends hold beyond it."""
        if self.table is None:
            return stored * self.slope + self.intercept
        index = np.clip(stored - self.first, 0, len(self.table) - 1).astype(np.intp)
        return self.table[index]


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """How a frame's stored values become values, and what those are.

    Attributes:
        pieces: the first one holds wherever no other does.
        factor: by which the result is multiplied.
        turned: None, or the sum of the least and the greatest value, from which each value is
            taken away so that higher is brighter.
    """

    quantity: Code
    unit: Code
    pieces: tuple[Piece, ...] = (Piece(-np.inf, np.inf),)
    factor: float = 1.0
    turned: float | None = None
    remark: str = ""

    @property
    def plain(self) -> bool:
        """Whether stored values are the values."""
        first = self.pieces[0]
        linear = first.table is None and (first.slope, first.intercept) == (1.0, 0.0)
        return linear and len(self.pieces) == 1 and self.factor == 1.0 and self.turned is None

    def apply(self, stored: Stored) -> Floats:
        """Values float32 (rows, columns) of stored values, or of RGB (rows, columns, 3).

        Raises:
            DecodeError: none of them is finite, though the stored ones are.
        """
        if stored.ndim == 3:
            return luminance(stored)
        if self.plain and stored.dtype.kind in "iu":
            return stored.astype(np.float32)
        exact = stored.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.pieces[0].at(exact)
            for piece in self.pieces[1:]:
                inside = (exact >= piece.first) & (exact <= piece.last)
                values[inside] = piece.at(exact[inside])
            values *= self.factor
            if self.turned is not None:
                values = self.turned - values
            single = values.astype(np.float32)
        if not np.isfinite(single).any() and np.isfinite(exact).any():
            raise DecodeError("no pixel has a finite value once it is rescaled")
        return single


def scales_of(frames: Sequence[Frame]) -> list[Scale]:
    """The scale of each of a series' `frames`.

    CT values are in Hounsfield units where the images say so. PET values become SUVbw where the
    images hold all that it needs, and stay in their own unit with a remark where they do not.
    A real world value map (PS3.3 C.7.6.16.2.11) goes before rescale and modality LUT. What is
    MONOCHROME1 and in arbitrary units is turned round.

    Raises:
        DecodeError: a scale that cannot be read.
    """
    scales = [_scale(frame) for frame in frames]
    if not frames or frames[0].modality != "PT":
        return scales
    return _as_uptake(frames, scales)


def _scale(frame: Frame) -> Scale:
    dataset = frame.dataset
    if is_color(dataset):
        return Scale(concepts.LUMINANCE, concepts.NO_UNITS)
    scale = _mapped(frame) or _rescaled(frame)
    if is_inverted(dataset) and scale.unit == concepts.NO_UNITS:
        ends = np.array(stored_range(dataset), dtype=np.float64)
        values = scale.pieces[0].at(ends)
        if scale.pieces[0].table is not None:
            values = np.array([scale.pieces[0].table.min(), scale.pieces[0].table.max()])
        is_float = "PixelData" not in dataset
        return replace(scale, turned=0.0 if is_float else float(values.sum()))
    return scale


def _rescaled(frame: Frame) -> Scale:
    """Modality LUT (PS3.3 C.11.1) or Pixel Value Transformation (C.7.6.16.2.9)."""
    modality = frame.modality
    lut = first_item(frame.dataset, "ModalityLUTSequence")
    if lut is not None:
        kind, piece, known = text(lut, "ModalityLUTType"), _lut(lut), True
    else:
        slope, intercept = frame.number("RescaleSlope"), frame.number("RescaleIntercept")
        known = slope is not None or intercept is not None
        if slope == 0:
            raise DecodeError("RescaleSlope is 0")
        kind = frame.text("RescaleType")
        piece = Piece(-np.inf, np.inf, 1.0 if slope is None else slope, intercept or 0.0)
    if known and (kind == "HU" or (modality == "CT" and not kind)):
        return Scale(concepts.ATTENUATION, concepts.HOUNSFIELD, (piece,))
    remark = ""
    if modality == "CT":
        said = f"they are in {kind}" if kind else "the images do not say so"
        remark = f"The values are not in Hounsfield units: {said}."
    return Scale(concepts.arbitrary(modality), concepts.NO_UNITS, (piece,), remark=remark)


def _lut(item: Dataset) -> Piece:
    descriptor = numbers(item, "LUTDescriptor", 3)
    if descriptor is None:
        raise DecodeError("the modality LUT has no descriptor")
    entries = int(descriptor[0]) or _LARGEST_LUT
    first = int(descriptor[1])
    data = value_of(item, "LUTData")
    if isinstance(data, bytes):
        big = item.original_encoding[1] is False
        data = np.frombuffer(data[: len(data) // 2 * 2], dtype=">u2" if big else "<u2")
    table = np.atleast_1d(np.asarray(data if data is not None else (), dtype=np.float64))
    if not 0 < entries <= _LARGEST_LUT or len(table) < entries:
        raise DecodeError(f"the modality LUT has {len(table)} entries, not {entries}")
    return Piece(first, first + entries - 1, table=table[:entries])


def _mapped(frame: Frame) -> Scale | None:
    """The real world value map of a frame; of several, the first and those in its unit."""
    maps = frame.group("RealWorldValueMappingSequence")
    if not maps:
        return None
    unit = _unit(maps[0])
    if unit is None:
        return None
    same = [item for item in maps if _unit(item) == unit]
    pieces = tuple(_piece(item) for item in same)
    distinct = pieces[:1] + tuple(
        piece
        for piece in pieces[1:]
        if piece.last < pieces[0].first or piece.first > pieces[0].last
    )
    usual = concepts.arbitrary(frame.modality) if unit.value == "1" else concepts.ANY_QUANTITY
    quantity = _quantity(maps[0]) or concepts.QUANTITY_OF_UNIT.get(unit.value, usual)
    if unit.value == "1":
        unit = concepts.NO_UNITS
    return Scale(quantity, unit, distinct)


def _piece(item: Dataset) -> Piece:
    ends = []
    for end in ("First", "Last"):
        found = number(item, f"RealWorldValue{end}ValueMapped")
        if found is None:
            found = number(item, f"DoubleFloatRealWorldValue{end}ValueMapped")
        ends.append(found)
    first = -np.inf if ends[0] is None else ends[0]
    last = np.inf if ends[1] is None else ends[1]
    slope, intercept = number(item, "RealWorldValueSlope"), number(item, "RealWorldValueIntercept")
    if slope is not None:
        return Piece(first, last, slope, intercept or 0.0)
    table = numbers(item, "RealWorldValueLUTData")
    if table is None or not np.isfinite(first) or len(table) > _LARGEST_LUT:
        raise DecodeError("a real world value map has neither a slope nor a usable table")
    return Piece(first, last, table=np.array(table, dtype=np.float64))


def _unit(item: Dataset) -> Code | None:
    """Measurement Units of a map; None where there are none that a result could carry."""
    found = first_item(item, "MeasurementUnitsCodeSequence")
    code = None if found is None else code_of(found)
    if code is None or code.scheme != "UCUM":
        return None
    return code.model_copy(update={"value": concepts.UNIT_SPELLINGS.get(code.value, code.value)})


def _quantity(item: Dataset) -> Code | None:
    for definition in items(item, "QuantityDefinitionSequence"):
        name = first_item(definition, "ConceptNameCodeSequence")
        value = first_item(definition, "ConceptCodeSequence")
        if name is not None and value is not None and text(name, "CodeValue") in _QUANTITY:
            return code_of(value)
    return None


def code_of(item: Dataset) -> Code | None:
    """A coded entry (PS3.3 Section 8) that a result can carry; None if it is not whole."""
    value, scheme = text(item, "CodeValue"), text(item, "CodingSchemeDesignator")
    meaning = text(item, "CodeMeaning")
    if not (0 < len(value) <= 16 and 0 < len(scheme) <= 16 and 0 < len(meaning) <= 64):
        return None
    return Code(value=value, scheme=scheme, meaning=meaning)


def _as_uptake(frames: Sequence[Frame], scales: Sequence[Scale]) -> list[Scale]:
    """PET values as SUVbw, or in the unit that they are stored in."""
    first = frames[0].dataset
    mapped = scales[0].unit
    if mapped == concepts.NO_UNITS:
        units = text(first, "Units")
        stored = concepts.PET_UNITS.get(units)
        if units == "GML":
            stored = concepts.SUV_TYPES.get(text(first, "SUVType"), concepts.SUV_OTHER)
        if stored is not None:
            scales = [replace(s, quantity=stored[0], unit=stored[1]) for s in scales]
    elif mapped.value == concepts.BQ_ML.value:
        units = "BQML"
    unit = scales[0].unit
    if unit == concepts.G_ML_BW:
        return list(scales)
    if scales[0].quantity in concepts.OTHER_UPTAKE:
        remark = f"The values are in {unit.meaning}, not SUV by body weight."
        return [replace(scale, remark=remark) for scale in scales]
    if mapped.value not in {concepts.NO_UNITS.value, concepts.BQ_ML.value}:
        return list(scales)
    datasets = list({id(frame.dataset): frame.dataset for frame in frames}.values())
    try:
        factor = suv_factor(datasets, units)
    except NotApplicableError as error:
        remark = f"The values are in {scales[0].unit.meaning}, not SUV: {error}."
        return [replace(scale, remark=remark) for scale in scales]
    return [
        replace(s, quantity=concepts.SUV_BW, unit=concepts.G_ML_BW, factor=factor) for s in scales
    ]
