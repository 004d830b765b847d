"""One series from DICOM bytes to checked objects, without ledger and queue."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from pydicom.dataset import Dataset

from core.modelspec import find_specs
from core.settings import Settings
from workers.analyse import Clock, analyse
from workers.analysis import Analysis
from workers.inference import Models
from workers.results.gate import check_objects
from workers.results.make import Made, make_objects
from workers.results.provenance import Provenance

WHEN = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)


class Went(NamedTuple):
    """What came of it; the objects have passed the gate."""

    analysis: Analysis
    made: list[Made]
    summary: dict[str, Any]

    def object(self, kind: str) -> Dataset:
        """The first object of a kind, read from its bytes."""
        return pydicom.dcmread(io.BytesIO(next(m.data for m in self.made if m.kind == kind)))

    def has(self, kind: str) -> bool:
        """Whether there is an object of a kind."""
        return any(item.kind == kind for item in self.made)


def go(datasets: Iterable[Dataset], name: str, settings: Settings) -> Went:
    """Analyse a series with the package `name`, make its objects and check them.

    Raises:
        JobError: whatever the worker would end the job with.
    """
    spec = find_specs(settings.models.folders)[name]
    analysis, summary = analyse(
        encoded(datasets),
        spec,
        Models(settings),
        settings,
        job_id="job-1",
        check=lambda: None,
        clock=Clock(),
    )
    provenance = Provenance("job-1", WHEN, analysis.spec, "0.1.0")
    made = make_objects(analysis, provenance, settings.results)
    check_objects(made, analysis, provenance)
    return Went(analysis, made, summary)


def encoded(datasets: Iterable[Dataset]) -> list[bytes]:
    """Part 10 files."""
    files = []
    for dataset in datasets:
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files


def groups(report: Dataset) -> list[Dataset]:
    """The measurement groups of a report, in their order (PS3.16 TID 1410, 1411, 1501)."""
    return [item for item in content(report) if name_of(item) == "125007"]


def content(item: Dataset) -> Iterator[Dataset]:
    """Every content item under `item`, in order."""
    for child in item.get("ContentSequence") or ():
        yield child
        yield from content(child)


def name_of(item: Dataset) -> str:
    """The code value of a content item's concept name; empty without one."""
    return (
        str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""
    )


def coded(group: Dataset) -> dict[str, str]:
    """The coded items of a group: value by the code value of its name."""
    return {
        name_of(item): str(item.ConceptCodeSequence[0].CodeValue)
        for item in content(group)
        if item.ValueType == "CODE"
    }


def texts(report: Dataset) -> list[str]:
    """Every text in a report."""
    return [str(item.TextValue) for item in content(report) if item.ValueType == "TEXT"]


def numbers(group: Dataset) -> dict[tuple[str, str], tuple[float, str]]:
    """(concept, derivation) → (value, unit) of a group, by code values."""
    found = {}
    for item in group.ContentSequence:
        if item.ValueType != "NUM":
            continue
        derived = [
            str(part.ConceptCodeSequence[0].CodeValue)
            for part in item.get("ContentSequence") or ()
            if name_of(part) == "121401"
        ]
        measured = item.MeasuredValueSequence[0]
        unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
        key = (name_of(item), derived[0] if derived else "")
        found[key] = (float(measured.NumericValue), unit)
    return found


def write(went: Went, kind: str, folder: Path) -> Path:
    """An object of a kind as a file, for other people's programs."""
    path = folder / f"{kind}.dcm"
    path.write_bytes(next(item.data for item in went.made if item.kind == kind))
    return path
