"""All objects of one analysis, in the order in which they are sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset

from core.domain import ResultKind
from core.settings import ResultSettings
from workers.analysis import Analysis
from workers.results.capture import build_capture
from workers.results.charset import legible
from workers.results.encode import to_bytes
from workers.results.heat import build_heat
from workers.results.keyobject import build_key_object, build_rejection
from workers.results.picture import draw_pages, png
from workers.results.provenance import Provenance
from workers.results.seg import build_segs
from workers.results.sr import build_sr

SegmentationKind = Literal["binary", "labelmap", "fractional"]


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """One object, encoded.

    Attributes:
        part: counts objects of one kind, from 0; of a SEG: which part of the analysis.
        name: file name in the store.
        dataset: None for a PNG.
    """

    kind: ResultKind
    part: int
    name: str
    data: bytes
    dataset: Dataset | None = None


def make_objects(
    analysis: Analysis, provenance: Provenance, settings: ResultSettings
) -> list[Made]:
    """SEG for each part with lesions, SR, picture, Key Objects as `settings` ask, and pictures.

    Raises:
        ResultError: an object cannot be made from what was found.
    """
    analysis = legible(analysis)
    segs = build_segs(analysis, provenance, kind=settings.segmentation)
    made = [
        _made(ResultKind.SEG, part, f"seg-{part + 1}.dcm", seg)
        for part, seg in enumerate(segs)
        if seg is not None
    ]
    report = build_sr(analysis, segs, provenance)
    made.append(_made(ResultKind.SR, 0, "sr.dcm", report))
    pages = draw_pages(analysis, provenance)
    found = any(finding.present for finding in analysis.findings)
    if settings.picture == "always" or (settings.picture == "findings" and found):
        capture = build_capture(pages, analysis, provenance)
        made.append(_made(ResultKind.SC, 0, "picture.dcm", capture))
    if settings.key_object and found:
        objects = [item.dataset for item in made if item.dataset is not None]
        key_object = build_key_object(analysis, provenance, objects)
        made.append(_made(ResultKind.KO, 0, "key-images.dcm", key_object))
    if settings.iocm:
        rejection = build_rejection(provenance, analysis.source)
        if rejection is not None:
            made.append(_made(ResultKind.REJECTION, 0, "rejection.dcm", rejection))
    made.append(Made(ResultKind.PICTURE, 0, "picture.png", png(pages)))
    heat = build_heat(analysis)
    if heat is not None:
        made.append(Made(ResultKind.HEAT, 0, "heat.png", heat))
    return made


def _made(kind: ResultKind, part: int, name: str, dataset: Dataset) -> Made:
    return Made(kind, part, name, to_bytes(dataset), dataset)
