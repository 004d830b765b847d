"""How large a lesion is."""

from __future__ import annotations

from core.domain import Axes, Measurement
from workers.lesions.concepts import (
    AREA,
    LONG_AXIS,
    MAXIMUM_3D_DIAMETER,
    MILLILITRE,
    MILLIMETRE,
    PERIMETER,
    SHORT_AXIS,
    SQUARE_MILLIMETRE,
    SURFACE_AREA,
    VOLUME,
    VOXEL_COUNT,
)
from workers.lesions.diameters import diameters_of
from workers.lesions.outline import Outlines
from workers.lesions.region import Region


def size_of(region: Region, outlines: Outlines) -> tuple[list[Measurement], Axes]:
    """Size of `region`, and the two diameters with their ends.

    In a volume: volume by counting voxels (IBSI YEKZ, so that it is the segmentation's), longest
    diameter and the one across it (RECIST 1.1), surface area (IBSI C0JK) and greatest diameter
    in space (IBSI L0JK) of the mesh. In an image: area by counting pixels, perimeter, and the
    two diameters; in pixels where their size is not known.
    """
    stack = region.stack
    row, column = region.pixel
    found = diameters_of(region.mask, row, column)
    diameters = [
        Measurement(LONG_AXIS, found.long, region.length_unit),
        Measurement(SHORT_AXIS, found.short, region.length_unit),
    ]
    if stack.is_volume:
        volume = region.voxels * stack.voxel_ml
        measured = [Measurement(VOLUME, volume, MILLILITRE, method=VOXEL_COUNT), *diameters]
        if region.mesh is not None:
            measured += [
                Measurement(MAXIMUM_3D_DIAMETER, region.mesh.diameter, MILLIMETRE),
                Measurement(SURFACE_AREA, region.mesh.area, SQUARE_MILLIMETRE),
            ]
    else:
        measured = [
            Measurement(AREA, region.voxels * row * column, region.area_unit),
            *diameters,
            Measurement(PERIMETER, float(outlines.perimeter.sum()), region.length_unit),
        ]
    top, left = region.box[1].start, region.box[2].start
    axes = Axes(
        index=region.box[0].start + found.index,
        long=_moved(found.long_ends, left, top),
        short=_moved(found.short_ends, left, top),
    )
    return measured, axes


def _moved(
    ends: tuple[tuple[float, float], tuple[float, float]], left: int, top: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    (x0, y0), (x1, y1) = ends
    return (x0 + left, y0 + top), (x1 + left, y1 + top)
