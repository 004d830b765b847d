"""QIDO-RS: looking for studies, series and instances (PS3.18 10.6)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName
from starlette.responses import Response

from core.errors import BadRequestError, SentinodeError
from core.ledger.holdings import Holding, SeriesHeld, StudyHeld, StudyMatch
from node.web.access import Viewer, Who
from node.web.api.shapes import StudyUID
from node.web.dicomweb.answers import of_instance, of_series, of_study, only
from node.web.dicomweb.files import head, unread
from node.web.dicomweb.matching import matches
from node.web.dicomweb.media import check_json
from node.web.room import InRoom, Room

router = APIRouter()

_DEFAULT_LIMIT, _MOST = 100, 5000
# Series and instances are looked for within so many studies.
_MOST_STUDIES = 1000
_MOST_LENGTH = 1024
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_UID = re.compile(r"[0-9.]{1,64}")
_DATE = re.compile(r"[0-9]{8}")
_OF_STUDIES = frozenset(
    {
        "StudyInstanceUID",
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "StudyDescription",
        "StudyDate",
        "ModalitiesInStudy",
    }
)


@dataclass(slots=True)
class Asked:
    """What a request asks for.

    Attributes:
        keys: keyword → value that must match.
        fields: keywords that are to be in the answer besides those that always are.
        everything: all that is known is to be in the answer.
        warnings: what is not done as it was asked for.
    """

    limit: int = _DEFAULT_LIMIT
    offset: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)
    everything: bool = False
    warnings: list[str] = field(default_factory=list)


@router.get("/studies")
def studies(request: Request, who: Viewer, room: InRoom) -> Response:
    """Studies, those that came last first."""
    kind, asked = check_json(request.headers.get("accept", "")), _asked(request)
    _note(room, who, request)
    match = _match(asked)
    known = _OF_STUDIES | {"SeriesInstanceUID"}
    others = {key: value for key, value in asked.keys.items() if key not in known}
    base = _base(request)
    if not others:
        with room.ledger.read() as work:
            found = work.holdings.studies(match, asked.limit, asked.offset)
        lines = [of_study(item, base) for item in found]
    else:
        within = (of_study(item, base) for item in _within(room, match, asked))
        lines = [line for line in within if matches(line, others)]
        lines = lines[asked.offset : asked.offset + asked.limit]
    return _answer(lines, kind, asked, ("study",))


@router.get("/series")
def all_series(request: Request, who: Viewer, room: InRoom) -> Response:
    """Series of any study."""
    return _series(request, who, room, "")


@router.get("/studies/{study}/series")
def series_of_study(request: Request, who: Viewer, room: InRoom, study: StudyUID) -> Response:
    """Series of one study, those of our results among them."""
    return _series(request, who, room, study)


@router.get("/instances")
def all_instances(request: Request, who: Viewer, room: InRoom) -> Response:
    """Instances of any study."""
    return _instances(request, who, room, "", "")


@router.get("/studies/{study}/instances")
def instances_of_study(request: Request, who: Viewer, room: InRoom, study: StudyUID) -> Response:
    """Instances of one study."""
    return _instances(request, who, room, study, "")


@router.get("/studies/{study}/series/{series}/instances")
def instances_of_series(
    request: Request, who: Viewer, room: InRoom, study: StudyUID, series: StudyUID
) -> Response:
    """Instances of one series."""
    return _instances(request, who, room, study, series)


def _series(request: Request, who: Who, room: Room, study: str) -> Response:
    kind, asked = check_json(request.headers.get("accept", "")), _asked(request)
    _note(room, who, request)
    found = _within(room, _match(asked, study), asked)
    rest = {key: value for key, value in asked.keys.items() if key not in _OF_STUDIES}
    lines = []
    for held in found:
        for line in _series_lines(room, held, _base(request)):
            if matches(line, rest):
                # a study's attributes are in the answer where the study was not named
                lines.append(line if study else of_study(held, _base(request)) | line)
    levels = ("series",) if study else ("study", "series")
    return _answer(lines[asked.offset : asked.offset + asked.limit], kind, asked, levels)


def _series_lines(room: Room, held: StudyHeld, base: str) -> list[dict[str, Any]]:
    lines = [of_series(held.study, item, base) for item in held.series]
    known = {item.series_instance_uid for item in held.series}
    ours: dict[str, list[Holding]] = {}
    for result in held.results:
        if result.series_instance_uid not in known:
            ours.setdefault(result.series_instance_uid, []).append(result)
    for holdings in ours.values():
        header = _header(room, holdings[0])
        lines.append(of_series(held.study, _as_series(holdings, header), base))
    return lines


def _as_series(holdings: list[Holding], header: dict[str, Any]) -> SeriesHeld:
    return SeriesHeld(
        series_instance_uid=holdings[0].series_instance_uid,
        modality=str(header.get("Modality", "")),
        description=str(header.get("SeriesDescription", "")),
        number=str(header.get("SeriesNumber", "")),
        instances=len(holdings),
        attributes=header,
    )


def _instances(request: Request, who: Who, room: Room, study: str, series: str) -> Response:
    kind, asked = check_json(request.headers.get("accept", "")), _asked(request)
    _note(room, who, request)
    rest = {key: value for key, value in asked.keys.items() if key not in _OF_STUDIES}
    uids = _uids(rest.pop("SOPInstanceUID", ""))
    wanted_series = _uids(rest.pop("SeriesInstanceUID", ""))
    classes = _uids(rest.pop("SOPClassUID", ""))
    lines: list[dict[str, Any]] = []
    skip, base = asked.offset, _base(request)
    for held in _within(room, _match(asked, study), asked):
        with room.ledger.read() as work:
            objects = work.holdings.objects(held.study.study_instance_uid, series)
        around = {}
        if rest or not series:
            around = {_series_uid(line): line for line in _series_lines(room, held, base)}
        for holding in objects:
            if len(lines) >= asked.limit:
                break
            about = around.get(holding.series_instance_uid, {})
            if not all(
                value in wanted
                for value, wanted in (
                    (holding.sop_instance_uid, uids),
                    (holding.series_instance_uid, wanted_series),
                    (holding.sop_class_uid, classes),
                )
                if wanted
            ):
                continue
            # its header is read only where it is needed: to match, or to be shown
            if rest and not matches(about | _line(room, holding, base), rest):
                continue
            if skip:
                skip -= 1
                continue
            whole = {} if study else of_study(held, base)
            lines.append(whole | ({} if series else about) | _line(room, holding, base))
    levels = ("study", "series", "instance")[bool(study) + bool(series) :]
    return _answer(lines, kind, asked, levels)


def _line(room: Room, holding: Holding, base: str) -> dict[str, Any]:
    return of_instance(holding, _header(room, holding), base)


def _series_uid(line: dict[str, Any]) -> str:
    return str(line["0020000E"]["Value"][0])


def _within(room: Room, match: StudyMatch, asked: Asked) -> list[StudyHeld]:
    with room.ledger.read() as work:
        found = work.holdings.studies(match, _MOST_STUDIES + 1)
    if len(found) > _MOST_STUDIES:
        asked.warnings.append(f"only the newest {_MOST_STUDIES} studies were looked at")
    return found[:_MOST_STUDIES]


def _header(room: Room, holding: Holding) -> dict[str, Any]:
    """The short attributes of one object; empty where it cannot be read now."""
    try:
        with room.store.as_file(holding.store_key) as path, unread(room, holding):
            dataset = head(path)
            return {
                keyword: value
                for tag in dataset.keys()  # noqa: SIM118 - a data set's iteration reads values
                if (keyword := keyword_for_tag(tag))
                and isinstance(
                    value := _simple(dataset.get(keyword)), str | int | float | list | dict
                )
            }
    except SentinodeError:
        return {}


def _simple(value: Any) -> Any:
    if isinstance(value, MultiValue):
        return [_simple(item) for item in value]
    if isinstance(value, PersonName):
        return str(value)
    return value if isinstance(value, str | int | float) else None


def _asked(request: Request) -> Asked:
    """Read the query (PS3.18 8.3.4).

    Raises:
        BadRequestError: a parameter is none, or its value cannot be read.
    """
    asked = Asked()
    for name, value in request.query_params.multi_items():
        if len(value) > _MOST_LENGTH or "\0" in value:
            raise BadRequestError(f"the value of {name[:64]} is too long or holds NUL")
        if name in {"limit", "offset"}:
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise BadRequestError(f"{name} is a number, not {value!r}")
            setattr(asked, name, int(value))
        elif name == "fuzzymatching":
            asked.warnings += _fuzzy(value)
        elif name == "includefield":
            items = [item for item in value.split(",") if item]
            asked.everything = asked.everything or "all" in items
            asked.fields |= {_keyword(item) for item in items if item != "all"}
        else:
            asked.keys[_keyword(name)] = value.strip()
    if asked.limit > _MOST:
        asked.limit = _MOST
        asked.warnings.append(f"at most {_MOST} results are given at once")
    return asked


def _fuzzy(value: str) -> list[str]:
    if value not in {"true", "false"}:
        raise BadRequestError("fuzzymatching is true or false")
    said = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
    return [said] if value == "true" else []


def _keyword(name: str) -> str:
    """The keyword of an attribute by its keyword, its tag, or a path of them: the last one."""
    last = name.rpartition(".")[2]
    keyword = keyword_for_tag(int(last, 16)) if _TAG.fullmatch(last) else last
    if not keyword or tag_for_keyword(keyword) is None:
        raise BadRequestError(f"{name[:64]!r} is no attribute")
    return keyword


def _match(asked: Asked, study: str = "") -> StudyMatch:
    keys = asked.keys
    uids = _uids(keys.get("StudyInstanceUID", ""))
    if study:
        uids = (study,) if not uids or study in uids else ("",)
    modalities = tuple(
        item for item in re.split(r"[\\,]", keys.get("ModalitiesInStudy", "")) if item
    )
    return StudyMatch(
        uids=uids,
        patient_id=keys.get("PatientID", ""),
        patient_name=keys.get("PatientName", ""),
        accession_number=keys.get("AccessionNumber", ""),
        description=keys.get("StudyDescription", ""),
        dates=_dates(keys.get("StudyDate", "")),
        modalities=modalities if not any("*" in item for item in modalities) else (),
        series_uids=_uids(keys.get("SeriesInstanceUID", "")),
    )


def _uids(text: str) -> tuple[str, ...]:
    parts = tuple(item for item in re.split(r"[\\,]", text) if item and item != "*")
    if not all(_UID.fullmatch(item) for item in parts):
        raise BadRequestError("a UID has digits and dots only")
    return parts


def _dates(text: str) -> tuple[str, str]:
    """A date or a range of dates (PS3.4 C.2.2.2.5)."""
    if not text or text == "*":
        return "", ""
    first, dash, last = text.partition("-")
    if not dash:
        last = first
    if not (first or last) or any(part and not _DATE.fullmatch(part) for part in (first, last)):
        raise BadRequestError("a date is YYYYMMDD, or a range such as 20260101-20260131")
    return first, last


def _answer(
    lines: Iterable[dict[str, Any]], kind: str, asked: Asked, levels: tuple[str, ...]
) -> Response:
    content = [only(line, asked.fields, levels, everything=asked.everything) for line in lines]
    headers = {"Warning": ", ".join(f'299 sentinode "{item}"' for item in asked.warnings)}
    if not asked.warnings:
        headers = {}
    if not content:
        return Response(status_code=204, headers=headers)
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return Response(text.encode("utf-8", "replace"), media_type=kind, headers=headers)


def _note(room: Room, who: Who, request: Request) -> None:
    room.audit.queried(who.name, who.address, f"{request.url.path}?{request.url.query}")


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")
