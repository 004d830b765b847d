"""Standardised uptake value by body weight, from what the PET images say of the injection.

After the vendor-neutral pseudo-code of the QIBA FDG-PET/CT profile (Appendix G). Nothing is
guessed: where an attribute is missing or implausible, the message names it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, time, timedelta

from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from core.errors import NotApplicableError
from workers.images.attributes import items, number, private_text, text, texts

WEIGHT_KG = (0.2, 650.0)
DOSE_BQ = (1e4, 1e11)  # 0.01 to 100,000 MBq; a dose written in MBq falls below
_LONGEST_DECAY = 20  # half-lives
_LONGEST_USUAL = 8  # half-lives after which nobody scans: an injection "tomorrow" is more
_UNITS = ("BQML", "CNTS", "GML")
_HALF_LIFE_S = (10.0, 1e6)  # seconds: rubidium-82 has 76, iodine-124 361,000
_HALF_LIFE_SLACK = 0.05
# PS3.16 CID 4020 → half-life in seconds (ICRP Publication 107).
_NUCLIDES_S = {
    "40565003": 1223.4,  # carbon-11
    "21576001": 597.9,  # nitrogen-13
    "129504001": 122.2,  # oxygen-15
    "77004003": 6586.2,  # fluorine-18
    "3932008": 45_720.0,  # copper-64
    "35337001": 4062.6,  # gallium-68
    "79197006": 76.4,  # rubidium-82
    "63360001": 282_276.0,  # zirconium-89
    "40937006": 360_806.0,  # iodine-124
}
_MS = 1000.0
_DAY = timedelta(days=1)
_PHILIPS = (0x7053, "Philips PET Private Group")
_GE = (0x0009, "GEMS_PETD_01")
# A DT that names at least the hour, whatever offset follows (PS3.5 Table 6.2-1).
_WITH_HOURS = re.compile(r"\d{10}")


def suv_factor(datasets: Sequence[Dataset], units: str) -> float:
    """What to multiply rescaled values in `units` by, to get SUVbw in g/mL.

    Takes all instances of the series, and Units (0054,1001), or "BQML" where a real world value
    map says Bq/ml.

    Raises:
        NotApplicableError: it cannot be told; the message names what is missing or implausible.
        DecodeError: an attribute that cannot be read.
    """
    first = datasets[0]
    if units == "GML" and text(first, "SUVType") in {"", "BW"}:
        return 1.0
    factor = 1.0
    if units == "CNTS":
        if direct := _private(first, *_PHILIPS, 0x00):
            return direct
        factor = _private(first, *_PHILIPS, 0x09) or 0.0
        if not factor:
            raise NotApplicableError("counts without the vendor's scale factor")
    elif units != "BQML":
        raise NotApplicableError(f"Units is {units or 'missing'}, not BQML")
    _check_corrected(first)
    weight = _within(number(first, "PatientWeight"), "PatientWeight", WEIGHT_KG)
    tracers = items(first, "RadiopharmaceuticalInformationSequence")
    if len(tracers) != 1:
        raise NotApplicableError(
            f"RadiopharmaceuticalInformationSequence has {len(tracers)} items, not one"
        )
    tracer = tracers[0]
    dose = _within(number(tracer, "RadionuclideTotalDose"), "RadionuclideTotalDose", DOSE_BQ)
    if text(first, "DecayCorrection") != "ADMIN":
        dose *= _remaining(datasets, tracer)
    return factor * weight * 1000 / dose


def check_uptake(datasets: Sequence[Dataset]) -> None:
    """See that all that a SUV rests on is there and plausible, however the values are stored.

    Takes the headers of all instances of a series. Stricter than `suv_factor`, which asks only
    for what it computes with: Units (or a real world value map), corrections, weight, dose,
    half-life and times must be there also where the scanner has made the SUV itself, they must
    be the same in all instances, the half-life that of the nuclide, and the time since the
    injection no more than 8 half-lives.

    Raises:
        NotApplicableError: something is missing, implausible, or differs; the message names it.
        DecodeError: an attribute that cannot be read.
    """
    first = datasets[0]
    units = text(first, "Units")
    if units not in _UNITS and not (units == "" and _is_mapped(first)):
        raise NotApplicableError(f"Units is {units or 'missing'}, not {', '.join(_UNITS)}")
    for keyword in ("Units", "PatientWeight", "DecayCorrection", "CorrectedImage"):
        if len({text(dataset, keyword) for dataset in datasets}) > 1:
            raise NotApplicableError(f"the images do not agree on {keyword}")
    _check_corrected(first)
    _within(number(first, "PatientWeight"), "PatientWeight", WEIGHT_KG)
    tracers = [items(dataset, "RadiopharmaceuticalInformationSequence") for dataset in datasets]
    if any(len(found) != 1 for found in tracers):
        raise NotApplicableError("RadiopharmaceuticalInformationSequence has not one item")
    tracer = tracers[0][0]
    for keyword in ("RadionuclideTotalDose", "RadionuclideHalfLife"):
        if len({number(found[0], keyword) for found in tracers}) > 1:
            raise NotApplicableError(f"the images do not agree on {keyword}")
    _within(number(tracer, "RadionuclideTotalDose"), "RadionuclideTotalDose", DOSE_BQ)
    half_life = _within(
        number(tracer, "RadionuclideHalfLife"), "RadionuclideHalfLife", _HALF_LIFE_S
    )
    for nuclide in items(tracer, "RadionuclideCodeSequence"):
        known = _NUCLIDES_S.get(text(nuclide, "CodeValue"))
        if known is not None and abs(half_life - known) > _HALF_LIFE_SLACK * known:
            name = text(nuclide, "CodeMeaning")
            raise NotApplicableError(
                f"RadionuclideHalfLife is implausible: {half_life:g} s, {name} has {known:g} s"
            )
    if _remaining(datasets, tracer) < 2**-_LONGEST_USUAL:
        raise NotApplicableError(
            "RadiopharmaceuticalStartTime is implausible: more than "
            f"{_LONGEST_USUAL} half-lives before the scan"
        )


def _is_mapped(dataset: Dataset) -> bool:
    """Whether it is an Enhanced image, whose values a real world value map describes."""
    return bool(items(dataset, "PerFrameFunctionalGroupsSequence"))


def _check_corrected(dataset: Dataset) -> None:
    """Attenuation and decay must be corrected for (PS3.3 C.8.9.1, C.8.22.4)."""
    corrected = texts(dataset, "CorrectedImage")
    if "ATTN" not in corrected and text(dataset, "AttenuationCorrected") != "YES":
        raise NotApplicableError("CorrectedImage does not name ATTN")
    if "DECY" not in corrected and text(dataset, "DecayCorrected") != "YES":
        raise NotApplicableError("CorrectedImage does not name DECY")
    way = text(dataset, "DecayCorrection")
    if way not in {"START", "ADMIN"} and not text(dataset, "DecayCorrectionDateTime"):
        raise NotApplicableError(f"DecayCorrection is {way or 'missing'}, not START or ADMIN")


def _remaining(datasets: Sequence[Dataset], tracer: Dataset) -> float:
    """Part of the dose that was left at the time that the images are corrected to."""
    half_life = number(tracer, "RadionuclideHalfLife")
    if half_life is None or half_life <= 0:
        raise NotApplicableError("RadionuclideHalfLife is missing or not positive")
    reference = _reference(datasets, half_life)
    began = _injection(tracer, reference, text(datasets[0], "TimezoneOffsetFromUTC"))
    passed = (reference - began).total_seconds()
    if not 0 <= passed <= _LONGEST_DECAY * half_life:
        raise NotApplicableError(
            f"RadiopharmaceuticalStartTime is implausible: {passed:.0f} s before the scan"
        )
    return float(2 ** (-passed / half_life))


def _injection(tracer: Dataset, reference: datetime, zone: str) -> datetime:
    exact = text(tracer, "RadiopharmaceuticalStartDateTime")
    if _WITH_HOURS.match(exact):
        return _date_time(exact, "RadiopharmaceuticalStartDateTime", zone)
    clock = text(tracer, "RadiopharmaceuticalStartTime")
    if not clock:
        raise NotApplicableError("RadiopharmaceuticalStartTime is missing")
    found = datetime.combine(reference.date(), _time(clock, "RadiopharmaceuticalStartTime"))
    # A time without a date after the scan's own was on the evening before.
    return found if found <= reference else found - _DAY


def _reference(datasets: Sequence[Dataset], half_life: float) -> datetime:
    """The time that decay is corrected to.

    Series Time is that time, unless a workstation wrote a new series; it is later than the
    acquisition then, and the time is taken from elsewhere.
    """
    first = datasets[0]
    exact = text(first, "DecayCorrectionDateTime")
    if exact:
        return _date_time(exact, "DecayCorrectionDateTime", text(first, "TimezoneOffsetFromUTC"))
    acquired = [(_acquired(dataset), index) for index, dataset in enumerate(datasets)]
    earliest, index = min(acquired)
    series = _moment(first, "SeriesDate", "SeriesTime")
    if series is not None and series <= earliest:
        return series
    scan = private_text(first, *_GE, 0x0D)
    if scan:
        return _date_time(scan, "the scan time of GE", text(first, "TimezoneOffsetFromUTC"))
    frame = datasets[index]
    since, lasted = number(frame, "FrameReferenceTime"), number(frame, "ActualFrameDuration")
    if since is None or lasted is None or lasted <= 0:
        raise NotApplicableError(
            "SeriesTime is missing or later than AcquisitionTime, and FrameReferenceTime or "
            "ActualFrameDuration is missing"
        )
    rate = math.log(2) / half_life
    decay = rate * lasted / _MS
    average = math.log(decay / -math.expm1(-decay)) / rate
    return earliest + timedelta(seconds=average - since / _MS)


def _acquired(dataset: Dataset) -> datetime:
    exact = text(dataset, "AcquisitionDateTime")
    found = _moment(dataset, "AcquisitionDate", "AcquisitionTime")
    if found is None and exact:
        found = _date_time(exact, "AcquisitionDateTime", text(dataset, "TimezoneOffsetFromUTC"))
    if found is None:
        raise NotApplicableError("AcquisitionDate or AcquisitionTime is missing")
    return found


def _moment(dataset: Dataset, date: str, clock: str) -> datetime | None:
    day, hour = text(dataset, date), text(dataset, clock)
    if not day or not hour:
        return None
    try:
        parsed = DA(day)
    except (ValueError, TypeError) as error:
        raise NotApplicableError(f"{date} is no date") from error
    if parsed is None:
        raise NotApplicableError(f"{date} is no date")
    return datetime.combine(parsed, _time(hour, clock))


def _time(value: str, name: str) -> time:
    try:
        parsed = TM(value)
    except (ValueError, TypeError) as error:
        raise NotApplicableError(f"{name} is no time") from error
    if parsed is None:
        raise NotApplicableError(f"{name} is no time")
    return time(parsed.hour, parsed.minute, parsed.second, parsed.microsecond)


def _date_time(value: str, name: str, zone: str) -> datetime:
    """A DT in the data set's own zone, `zone`, in which all its dates and times are.

    One with an offset of its own is converted (PS3.5 Table 6.2-1, PS3.3 C.12.1.1.8).
    """
    try:
        parsed = DT(value)
    except (ValueError, TypeError) as error:
        raise NotApplicableError(f"{name} is no date and time") from error
    if parsed is None or not _WITH_HOURS.match(value):
        raise NotApplicableError(f"{name} is no date and time")
    found = datetime.combine(parsed.date(), time(*parsed.timetuple()[3:6], parsed.microsecond))
    offset = parsed.utcoffset()
    if offset is None:
        return found
    ours = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", zone)
    if ours is None:
        raise NotApplicableError(f"{name} has an offset from UTC, TimezoneOffsetFromUTC is missing")
    here = timedelta(hours=int(ours[2]), minutes=int(ours[3])) * (-1 if ours[1] == "-" else 1)
    return found - offset + here


def _within(value: float | None, name: str, limits: tuple[float, float]) -> float:
    if value is None:
        raise NotApplicableError(f"{name} is missing")
    if not limits[0] <= value <= limits[1]:
        raise NotApplicableError(f"{name} is implausible: {value:g}")
    return value


def _private(dataset: Dataset, group: int, creator: str, element: int) -> float | None:
    """A vendor's number; None where it is missing, zero, or no number."""
    try:
        found = float(private_text(dataset, group, creator, element) or 0)
    except ValueError:
        return None
    return found if math.isfinite(found) and found > 0 else None
