"""Raw headers: every element of an object as text, whatever is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from starlette.responses import Response

from core.errors import BytesGoneError, DecodeError, NotFoundError, SentinodeError
from core.sopclasses import name_of
from node.web.access import Viewer
from node.web.audit.messages import Study as AuditStudy
from node.web.pages.rendering import render
from node.web.room import InRoom

router = APIRouter(prefix="/studies/{study_uid}")

_MOST_ELEMENTS = 5000
_MOST_CHARACTERS = 400
_MOST_VALUES = 64
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_DEFER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """One element; `depth` counts the sequences that it lies in."""

    depth: int
    tag: str
    vr: str
    name: str
    value: str


@router.get("/instances/{instance_id}")
def instance(
    request: Request, room: InRoom, who: Viewer, study_uid: str, instance_id: int
) -> Response:
    """The header of a stored image."""
    with room.ledger.read() as work:
        held = work.study_page.instance(instance_id)
        known = work.views.study(held.study_instance_uid)
    if held.study_instance_uid != study_uid:
        raise NotFoundError(f"no instance {instance_id} in study {study_uid}")
    if held.gone:
        raise BytesGoneError("the image was removed from the store ([retention])")
    room.audit.looked(who.name, who.address, AuditStudy(study_uid, known.patient_id))
    with room.store.as_file(held.instance.store_key) as path:
        lines = read_lines(path)
    title = name_of(held.instance.sop_class_uid)
    return render(request, who, "headers.html", lines=lines, study=known, title=title)


@router.get("/series/{series_uid}/instances")
def instances(
    request: Request, room: InRoom, who: Viewer, study_uid: str, series_uid: str
) -> Response:
    """The images of a series, to look at their headers."""
    with room.ledger.read() as work:
        held = work.study_page.instances(series_uid, 1000)
        known = work.views.study(study_uid)
    if not held or held[0].study_instance_uid != study_uid:
        raise NotFoundError(f"no series {series_uid} in study {study_uid}")
    room.audit.looked(who.name, who.address, AuditStudy(study_uid, known.patient_id))
    return render(request, who, "instances.html", held=held, study=known, class_name=name_of)


@router.get("/results/{result_id}")
def result(request: Request, room: InRoom, who: Viewer, study_uid: str, result_id: int) -> Response:
    """The header of an object that a job made."""
    with room.ledger.read() as work:
        found, study, gone = work.study_page.result(result_id)
        known = work.views.study(study)
    if study != study_uid or not found.sop_class_uid:
        raise NotFoundError(f"no object {result_id} in study {study_uid}")
    if gone:
        raise BytesGoneError("the object was removed from the store ([retention])")
    room.audit.looked(who.name, who.address, AuditStudy(study_uid, known.patient_id))
    with room.store.as_file(found.store_key) as path:
        lines = read_lines(path)
    return render(
        request, who, "headers.html", lines=lines, study=known, title=name_of(found.sop_class_uid)
    )


def read_lines(path: Path) -> list[Line]:
    """The elements of a Part 10 file, the pixels left out; of very many the first ones.

    Raises:
        DecodeError: it cannot be read.
    """
    try:
        dataset = dcmread(path, stop_before_pixels=True, defer_size=_DEFER_BYTES)
        found = []
        for line in (*_lines(dataset.file_meta, 0), *_lines(dataset, 0)):
            found.append(line)
            if len(found) >= _MOST_ELEMENTS:
                found.append(Line(0, "…", "", "", ""))
                break
        return found
    except SentinodeError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise DecodeError(f"the header cannot be read: {error}") from error


def _lines(dataset: Dataset, depth: int) -> Iterator[Line]:
    for tag in sorted(dataset.keys()):
        element = dataset[tag]
        shown = f"({tag.group:04X},{tag.element:04X})"
        if element.VR == "SQ":
            yield Line(depth, shown, "SQ", element.name, f"{len(element.value)} ×")
            for item in element.value:
                yield from _lines(item, depth + 1)
            continue
        yield Line(depth, shown, element.VR, element.name, _text(element))


def _text(element: DataElement) -> str:
    value = element.value
    if value is None:
        return ""
    if element.VR in _BYTES:
        return f"{len(value)} bytes"
    if not isinstance(value, str) and hasattr(value, "__iter__") and element.VM > 1:
        items = [str(item) for item in list(value)[:_MOST_VALUES]]
        text = "\\".join(items) + ("\\…" if element.VM > _MOST_VALUES else "")
    else:
        text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
