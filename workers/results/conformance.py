"""Do our objects conform to their IODs? Asked of dciodvfy, not of ourselves.

David Clunie's dicom3tools knows the IODs, modules, macros, value sets and templates of PS3.3 and
PS3.16 far better than a second list of ours would.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import structlog
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from core.errors import ResultError
from workers.results.provenance import COPIED

log = structlog.get_logger()

PROGRAM = "dciodvfy"
_PATIENCE_SECONDS = 120
_TAG = re.compile(r"\(([0-9a-f]{4}),([0-9a-f]{4})\)", re.IGNORECASE)
# Values that we repeat from the source digit for digit, or the references would lead nowhere and
# the geometry would be another: UIDs as the scanner made them, rounded orientations, long decimals.
_INHERITED_FAULT = re.compile(
    r"Illegal root for UID|invalid for this VR|Orientation vector is not unit|not orthogonal", re.I
)
_INHERITED = (
    "ReferencedSOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "UID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
)
# Dciodvfy judges a reference by the SOP class alone. It does not count Label Map Segmentation
# among segmentations yet (PS3.3 Table 10-3), and some senders put several frames under a
# single-frame class. That an instance has the frame that is named, the gate itself checks.
_WRONG = re.compile(
    r"ReferencedSegmentNumber.*Shall not be present for Referenced SOP Class that is not segment"
    r"|ReferencedFrameNumber.*Shall not be present for Referenced SOP Class that is not multi"
)
_LENGTH = "Length invalid for this VR"
_VALUE = re.compile(r"= <.*?>")  # may be a patient's


def errors_of(objects: Mapping[str, bytes], *, wide: bool = False) -> dict[str, list[str]]:
    """What dciodvfy calls an error in each of `objects` (Part 10 bytes, by name).

    `wide` says that a character may take several bytes in them: dciodvfy counts bytes where
    PS3.5 Table 6.2-1 counts characters, so what it says of lengths is left out then.

    Errors in attributes that were copied unaltered from the source are not ours to mend (a
    birth date that the hospital wrote wrong must stay as it is): they are told in the log and
    left out. Empty where the program is not installed, which the log tells once.

    Raises:
        ResultError: the program did not end.
    """
    program = _program()
    if program is None:
        return {}
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="sentinode-") as folder:
        running = []
        for number, (name, data) in enumerate(objects.items()):
            path = Path(folder) / f"{number}.dcm"
            path.write_bytes(data)
            # beside each other: one waits for the disk while another reads
            running.append((name, _start(program, path)))
        for name, process in running:
            try:
                said, _ = process.communicate(timeout=_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired as error:
                for _, other in running:
                    other.kill()
                    other.communicate()
                raise ResultError(
                    f"{PROGRAM} did not judge the {name} within {_PATIENCE_SECONDS} s"
                ) from error
            found[name] = _errors(name, said, wide=wide)
    return {name: errors for name, errors in found.items() if errors}


def _start(program: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program, "-new", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _errors(name: str, said: str, *, wide: bool = False) -> list[str]:
    ours: list[str] = []
    copied: list[str] = []
    for line in said.splitlines():
        if wide and _LENGTH in line:
            continue
        if line.startswith("Error") and not _WRONG.search(line):
            fault = _VALUE.sub("= <…>", line.removeprefix("Error - ").strip())
            (copied if _is_copied(line) else ours).append(fault)
    if copied:
        log.warning("source_attributes_do_not_conform", object=name, attributes=_names(copied))
    return ours


def _is_copied(line: str) -> bool:
    """Whether the fault lies in (or within) what was copied from the source."""
    tags = _tags(line)
    if any(tag in _tags_of(COPIED) for tag in tags):
        return True
    inherited = _tags_of(_INHERITED)
    return bool(tags and tags[-1] in inherited and _INHERITED_FAULT.search(line))


def _tags(line: str) -> list[int]:
    return [int(group + element, 16) for group, element in _TAG.findall(line)]


def _names(lines: Sequence[str]) -> list[str]:
    """The attributes' tags: what dciodvfy says of them is long."""
    return sorted({str(Tag(tag)) for line in lines for tag in _tags(line)})


@cache
def _tags_of(keywords: tuple[str, ...]) -> frozenset[int]:
    tags = (tag_for_keyword(keyword) for keyword in keywords)
    return frozenset(tag for tag in tags if tag is not None)


def _packaged() -> str | None:
    """The program inside the package: its console script would start Python first, 0.1 to 0.6 s."""
    try:
        files = distribution("dicom3tools").files or []
    except PackageNotFoundError:
        return None
    for file in files:
        if file.parts[-2:] == ("bin", PROGRAM):
            path = Path(str(file.locate()))
            return str(path) if os.access(path, os.X_OK) else None
    return None


@cache
def _program() -> str | None:
    found = _packaged() or shutil.which(PROGRAM)
    if found is None:
        log.warning(
            "conformance_not_checked",
            reason=f"{PROGRAM} is not installed",
            remedy="Install dicom3tools; until then objects leave without the check of their IOD.",
        )
    return found
