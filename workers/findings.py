"""Probabilities made into lesions: connected, measured, numbered, placed in the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from core.domain import Finding, Measurement
from core.identifiers import derived_uid
from core.modelspec import Code, LabelSpec, ModelSpec
from workers.volume import SeriesVolume

# Concepts of PS3.16 CID 7472 (volume) and CID 7470 (linear measurements), units UCUM.
VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
LONG_AXIS = Code(value="103339001", scheme="SCT", meaning="Long Axis")
MILLILITRE = Code(value="mL", scheme="UCUM", meaning="milliliter")
MILLIMETRE = Code(value="mm", scheme="UCUM", meaning="millimeter")

# Voxels that touch by a face, an edge or a corner belong together.
_CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Findings:
    """What a model found in one volume.

    Attributes:
        findings: largest first, numbered from 1; or one with number 0 that says "absent".
        label_map: uint16 (slices, rows, columns) in the volume's own grid; the finding's number
            at each of its voxels, 0 elsewhere.
        too_small: how many components were under the least size, and their volume in mL.
        left_out: how many were over the largest number of findings, and their volume in mL.
    """

    findings: tuple[Finding, ...]
    label_map: npt.NDArray[np.uint16]
    too_small: int = 0
    too_small_ml: float = 0.0
    left_out: int = 0
    left_out_ml: float = 0.0

    @property
    def present(self) -> tuple[Finding, ...]:
        """The lesions, without the statement of absence."""
        return tuple(finding for finding in self.findings if finding.present)


@dataclass(frozen=True, slots=True)
class _Component:
    """One connected region: its label channel, voxel box, mask in the box and sums over it."""

    label: LabelSpec
    box: tuple[slice, slice, slice]
    mask: npt.NDArray[np.bool_]
    voxels: int
    probability: float


def find_lesions(
    probabilities: npt.NDArray[np.floating],
    volume: SeriesVolume,
    spec: ModelSpec,
    *,
    job_id: str,
    min_volume_ml: float | None = None,
    max_findings: int = 100,
    uid_root: str = "",
) -> Findings:
    """Threshold, connect (26 neighbours), measure and number.

    `probabilities` is (channels, slices, rows, columns), 0 to 1, in the volume's own grid.
    Where two channels pass the threshold, the more probable one has the voxel. Without
    `min_volume_ml` the model's own least size holds. Tracking UIDs follow from the job.

    Raises:
        ValueError: the probabilities are not in the volume's grid, or lack a channel.
    """
    labels = spec.output.labels
    channels = max(label.channel for label in labels) + 1
    if probabilities.ndim != 4 or probabilities.shape[1:] != volume.array.shape:
        raise ValueError(f"probabilities {probabilities.shape} for a volume {volume.array.shape}")
    if probabilities.shape[0] < channels:
        raise ValueError(f"{probabilities.shape[0]} channels, the labels need {channels}")
    least = spec.postprocessing.min_volume_ml if min_volume_ml is None else min_volume_ml

    components: list[_Component] = []
    too_small = too_small_voxels = 0
    for mask, label in zip(_masks(probabilities, spec), labels, strict=True):
        kept, small, small_voxels = _components(
            mask, probabilities[label.channel], label, least / volume.voxel_ml
        )
        components += kept
        too_small += small
        too_small_voxels += small_voxels
    # Largest first; equal ones from the first voxel on, so that a retry numbers them alike.
    components.sort(key=lambda c: (-c.voxels, *(part.start for part in c.box), c.label.channel))
    kept, rest = components[:max_findings], components[max_findings:]

    label_map = np.zeros(volume.array.shape, dtype=np.uint16)
    findings = []
    for number, component in enumerate(kept, start=1):
        label_map[component.box][component.mask] = number
        tracking_uid = derived_uid(job_id, "tracking", str(number), root=uid_root)
        findings.append(_finding(component, volume, number, tracking_uid))
    if not findings:
        label = labels[0]
        tracking_uid = derived_uid(job_id, "tracking", "0", root=uid_root)
        findings.append(
            Finding(
                number=0,
                label=label.name,
                category=label.category,
                type=label.type,
                tracking_uid=tracking_uid,
                present=False,
                site=label.site,
                color=label.color,
            )
        )
    return Findings(
        findings=tuple(findings),
        label_map=label_map,
        too_small=too_small,
        too_small_ml=too_small_voxels * volume.voxel_ml,
        left_out=len(rest),
        left_out_ml=sum(component.voxels for component in rest) * volume.voxel_ml,
    )


def longest_diameter_mm(
    mask: npt.NDArray[np.bool_], row_spacing: float, column_spacing: float
) -> float:
    """Longest diameter within one slice, over all slices of `mask` (slices, rows, columns).

    The maximum Feret diameter: the greatest distance between the outer corners of two voxels of
    one slice. So one voxel has its diagonal, a rectangle of voxels exactly the diagonal of the
    rectangle; a smooth outline is overestimated by at most one pixel diagonal.
    """
    longest = 0.0
    for plane in mask[mask.any(axis=(1, 2))]:
        # Only each row's first and last voxel can lie on the hull.
        rows = np.flatnonzero(plane.any(axis=1))
        first = plane[rows].argmax(axis=1)
        last = plane.shape[1] - plane[rows, ::-1].argmax(axis=1)
        y = np.concatenate([rows, rows, rows + 1, rows + 1]) * row_spacing
        x = np.concatenate([first, last, first, last]) * column_spacing
        if np.hypot(np.ptp(x), np.ptp(y)) <= longest:
            continue
        corners = np.stack([x, y], axis=1)
        longest = max(longest, float(pdist(corners[ConvexHull(corners).vertices]).max()))
    return longest


def _masks(probabilities: npt.NDArray[np.floating], spec: ModelSpec) -> list[npt.NDArray[np.bool_]]:
    """One mask per label, none overlapping another."""
    channels = [label.channel for label in spec.output.labels]
    masks = [probabilities[channel] >= spec.output.threshold for channel in channels]
    if len(channels) > 1:
        best = np.argmax(probabilities[channels], axis=0)
        masks = [mask & (best == index) for index, mask in enumerate(masks)]
    return masks


def _components(
    mask: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.floating],
    label: LabelSpec,
    least_voxels: float,
) -> tuple[list[_Component], int, int]:
    """The components of at least `least_voxels`; how many are smaller, and their voxels."""
    box = _bounding_box(mask)
    if box is None:
        return [], 0, 0
    inside = mask[box]
    numbered, count = ndimage.label(inside, structure=_CONNECTIVITY)
    foreground = numbered[inside]
    voxels = np.bincount(foreground, minlength=count + 1)
    sums = np.bincount(foreground, weights=probability[box][inside], minlength=count + 1)
    boxes = ndimage.find_objects(numbered)
    found = []
    for number in range(1, count + 1):
        # Volumes are products of decimals: do not drop a lesion for the last bit.
        if voxels[number] < least_voxels * (1 - 1e-9):
            continue
        part = boxes[number - 1]
        place = tuple(
            slice(p.start + b.start, p.stop + b.start) for p, b in zip(part, box, strict=True)
        )
        found.append(
            _Component(
                label=label,
                box=(place[0], place[1], place[2]),
                mask=numbered[part] == number,
                voxels=int(voxels[number]),
                probability=float(sums[number] / voxels[number]),
            )
        )
    kept = sum(component.voxels for component in found)
    return found, count - len(found), int(voxels[1:].sum()) - kept


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The least box that holds every true voxel, or None."""
    plane: npt.NDArray[np.bool_] = np.asarray(mask.any(axis=0))
    sides = []
    for line in (mask.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0)):
        places = np.flatnonzero(line)
        if places.size == 0:
            return None
        sides.append(slice(int(places[0]), int(places[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _finding(
    component: _Component, volume: SeriesVolume, number: int, tracking_uid: str
) -> Finding:
    """Place and measure one component."""
    starts = np.array([part.start for part in component.box])
    stops = np.array([part.stop for part in component.box]) - 1
    # Sums per axis instead of a list of every voxel's place: large lesions stay cheap.
    middle = [
        np.average(
            np.arange(size),
            weights=component.mask.sum(axis=tuple(other for other in range(3) if other != axis)),
        )
        for axis, size in enumerate(component.mask.shape)
    ]
    centre = volume.affine @ [*(starts + middle), 1.0]
    corners = np.stack(
        np.meshgrid(*zip(starts, stops, strict=True), [1], indexing="ij"), axis=-1
    ).reshape(-1, 4)
    placed = (corners @ volume.affine.T)[:, :3]
    x0, y0, z0 = (float(value) for value in placed.min(axis=0))
    x1, y1, z1 = (float(value) for value in placed.max(axis=0))
    diameter = longest_diameter_mm(component.mask, volume.spacing_mm[1], volume.spacing_mm[2])
    return Finding(
        number=number,
        label=f"{component.label.name} {number}",
        category=component.label.category,
        type=component.label.type,
        tracking_uid=tracking_uid,
        site=component.label.site,
        color=component.label.color,
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        box=(x0, y0, z0, x1, y1, z1),
        slices=(int(starts[0]), int(stops[0])),
        probability=component.probability,
        measurements=(
            Measurement(VOLUME, component.voxels * volume.voxel_ml, MILLILITRE),
            Measurement(LONG_AXIS, diameter, MILLIMETRE),
        ),
    )
