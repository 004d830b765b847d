"""DICOM series and the segmentations that were drawn into them, as a folder to train on.

So a hospital can train on what its radiologists corrected. A series counts when a SEG refers to
it; of several SEGs the newest is taken, and a series without one says nothing: that no lesion was
drawn is not known. The images are written as the worker shows them to a model (axial, rescaled,
at the pixel spacing that the preprocessing resamples to), without anything of the patient.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import torch
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from torch.nn import functional

from core.errors import JobError, TrainingError
from core.modelspec import Code, InputSpec, StepSpec
from models.preprocessing import prepare_volume
from workers.images.axial import to_axial
from workers.images.build import build_stacks
from workers.images.read import read_series
from workers.images.stack import ImageStack
from workers.results.read_seg import read_seg

_HEADER = ("image", "mask", "label", "group", "slice", "split")
_ON_A_GRID = {"resample_in_plane", "resample"}
_GROUP_LENGTH = 12  # of a hash: enough for millions of patients
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass
class Collected:
    """What a collection came to.

    Attributes:
        left_out: why a series or a SEG was not used, and how many.
    """

    series: int = 0
    patients: int = 0
    images: int = 0
    with_mask: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, why: str) -> None:
        """Count what is not used."""
        self.left_out[why] = self.left_out.get(why, 0) + 1


def collect(
    source: Path,
    target: Path,
    spec: InputSpec,
    steps: Sequence[StepSpec],
    wanted: Sequence[Code],
    *,
    max_voxels: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Collected:
    """Write the series of `source` that have a SEG to `target`, with an `index.csv`.

    Args:
        source: a folder with Part 10 files, at any depth.
        steps: the preprocessing; only its resampling is applied here, for it needs the spacing.
        wanted: codes of the structures that count (Segmented Property Type); where no segment
            has one of them, all segments count.

    Raises:
        TrainingError: no series with a SEG that can be used.
    """
    found = Collected()
    files, segs = _sorted_by_series(source, spec, found)
    target.mkdir(parents=True, exist_ok=True)
    groups = set()
    rows: list[tuple[str, ...]] = []
    usable = sorted(set(files) & set(segs))
    for _ in set(segs) - set(files):
        found.leave_out("a SEG of images that are not there, or not of a modality of [input]")
    for number, series in enumerate(usable):
        progress(number, len(usable))
        try:
            images, masks = _volume(files[series], segs[series], spec, steps, wanted, max_voxels)
        except JobError as error:
            found.leave_out(str(error))
            continue
        group = _group(pydicom.dcmread(files[series][0], stop_before_pixels=True))
        groups.add(group)
        rows += _write(target, f"{number:05d}", group, images, masks)
        found.series += 1
    if not rows:
        why = "; ".join(f"{count} × {why}" for why, count in found.left_out.items())
        raise TrainingError(
            f"{source}: no series with a SEG that can be used" + (f" ({why})" if why else ""),
            remedy="Put the images and the SEG objects that refer to them into the folder.",
        )
    with (target / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(_HEADER)
        writer.writerows(rows)
    found.patients, found.images = len(groups), len(rows)
    found.with_mask = sum(1 for row in rows if row[1])
    return found


def _sorted_by_series(
    source: Path, spec: InputSpec, found: Collected
) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """Files of the series that fit, and the newest SEG of each series."""
    files: dict[str, list[Path]] = {}
    newest: dict[str, tuple[str, Path]] = {}
    for path in sorted(item for item in source.rglob("*") if item.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError, ValueError):
            found.leave_out("a file that is no DICOM")
            continue
        modality = str(header.get("Modality", ""))
        if modality == "SEG":
            said = header.get("ReferencedSeriesSequence") or [Dataset()]
            series = str(said[0].get("SeriesInstanceUID", ""))
            when = "".join(str(header.get(key) or "") for key in ("ContentDate", "ContentTime"))
            if series not in newest or newest[series][0] <= when:
                newest[series] = (when, path)
        elif modality in spec.modality:
            files.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(path)
    return files, {series: path for series, (_, path) in newest.items()}


def _volume(
    files: Sequence[Path],
    seg: Path,
    spec: InputSpec,
    steps: Sequence[StepSpec],
    wanted: Sequence[Code],
    max_voxels: int,
) -> tuple[Floats, Mask]:
    """Images and masks, (images, rows, columns), of one series.

    Raises:
        JobError: the series is nothing for the model, or the SEG does not lie on it.
    """
    stacks = build_stacks(read_series(files), spec, max_voxels=max_voxels)
    if len(stacks) != 1:
        raise JobError("images of several sizes or kinds in one series")
    (stack,) = stacks
    (marks,) = read_series([seg])
    drawn = _drawn(marks, stack, wanted)
    if not stack.is_volume:
        return stack.array, drawn
    view = to_axial(stack)
    mask = to_axial(replace(stack, array=drawn.astype(np.float32))).array
    geometry = [step for step in steps if step.name in _ON_A_GRID]
    plan = prepare_volume(geometry, view.array, view.spacing_mm)
    size = (plan.depth or len(view.array), *plan.resampled)
    return _resampled(view.array, size), _resampled(mask, size) >= 0.5


def _drawn(marks: Dataset, stack: ImageStack, wanted: Sequence[Code]) -> Mask:
    """Where a segment that counts was drawn, on the stack's grid."""
    values = read_seg(marks, stack)
    if values.dtype == np.float32:  # FRACTIONAL: probability or occupancy
        return np.asarray(values >= 0.5)
    codes = {(code.value, code.scheme) for code in wanted}
    numbers = [
        int(segment.SegmentNumber)
        for segment in marks.SegmentSequence
        if any(
            (str(item.get("CodeValue", "")), str(item.get("CodingSchemeDesignator", ""))) in codes
            for item in segment.get("SegmentedPropertyTypeCodeSequence") or ()
        )
    ]
    return np.asarray(np.isin(values, numbers) if numbers else values > 0)


def _resampled(volume: Floats, size: tuple[int, int, int]) -> Floats:
    """As the preprocessing resamples: slices with antialiasing, volumes without."""
    if volume.shape == size:
        return volume
    given = torch.from_numpy(np.ascontiguousarray(volume))
    if len(volume) == size[0]:
        made = functional.interpolate(
            given[:, None], size=size[1:], mode="bilinear", align_corners=False, antialias=True
        )[:, 0]
    else:
        made = functional.interpolate(
            given[None, None], size=size, mode="trilinear", align_corners=False
        )[0, 0]
    return np.asarray(made.numpy(), dtype=np.float32)


def _group(header: Dataset) -> str:
    """One name for a patient, from which nobody reads who it is."""
    who = f"{header.get('IssuerOfPatientID') or ''}\n{header.get('PatientID') or ''}"
    if not str(header.get("PatientID") or ""):
        who = str(header.StudyInstanceUID)
    return hashlib.sha256(who.encode()).hexdigest()[:_GROUP_LENGTH]


def _write(
    target: Path, series: str, group: str, images: Floats, masks: Mask
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        name = f"{series}-{number:04d}"
        Image.fromarray(np.asarray(image, dtype=np.float32)).save(target / f"{name}.tiff")
        kept = ""
        if mask.any():
            kept = f"{name}-mask.png"
            Image.fromarray(mask).save(target / kept, optimize=True)
        label = "drawn" if kept else "not drawn"
        rows.append((f"{name}.tiff", kept, label, group, str(number), ""))
    return rows
