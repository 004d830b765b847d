"""Steps that change the grid."""

from __future__ import annotations

from collections.abc import Sequence

from models.preprocessing.plan import Preparation, Spacing, Volume


def resample_in_plane(
    plan: Preparation, volume: Volume, spacing_mm: Spacing | None, spacing: float
) -> None:
    """Resample slices to `spacing` mm in both directions. Unknown spacing is left as it is."""
    if spacing_mm is None:
        return
    rows, columns = plan.shape
    plan.resampled = (
        max(1, round(rows * spacing_mm[1] / spacing)),
        max(1, round(columns * spacing_mm[2] / spacing)),
    )


def resample(
    plan: Preparation, volume: Volume, spacing_mm: Spacing | None, spacing: Sequence[float]
) -> None:
    """Resample to `spacing` mm (slice, row, column). Unknown spacing is left as it is.

    Across slices it is linear. For networks in 3D; the answer comes back to the input's grid.
    """
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing is {list(spacing)}, not three lengths in mm")
    if spacing_mm is None:
        return
    sizes = (len(volume), *plan.shape)
    made = [
        max(1, round(size * of / wanted))
        for size, of, wanted in zip(sizes, spacing_mm, spacing, strict=True)
    ]
    plan.depth, plan.resampled = made[0], (made[1], made[2])


def pad(
    plan: Preparation,
    volume: Volume,
    spacing_mm: Spacing | None,
    least: int = 0,
    multiple: int = 1,
) -> None:
    """Pad evenly to at least `least` pixels and to multiples of `multiple`; nothing is cropped."""
    rows, columns = plan.resampled
    height, width = (-(-max(size, least) // multiple) * multiple for size in (rows, columns))
    left, top = (width - columns) // 2, (height - rows) // 2
    plan.padding = (left, width - columns - left, top, height - rows - top)


def resize(
    plan: Preparation, volume: Volume, spacing_mm: Spacing | None, rows: int, columns: int
) -> None:
    """Bring slices to exactly `rows` × `columns`, for a network that takes one size only.

    The proportions are kept, and what is left over is padded evenly; nothing is cropped. It
    comes after `resample_in_plane`, if that is wanted, and takes the place of `pad`.
    """
    if min(rows, columns) < 1:
        raise ValueError(f"{rows} × {columns} pixels")
    height, width = plan.resampled
    scale = min(rows / height, columns / width)
    plan.resampled = (
        min(rows, max(1, round(height * scale))),
        min(columns, max(1, round(width * scale))),
    )
    top, left = (rows - plan.resampled[0]) // 2, (columns - plan.resampled[1]) // 2
    plan.padding = (
        left,
        columns - plan.resampled[1] - left,
        top,
        rows - plan.resampled[0] - top,
    )


def neighbours(
    plan: Preparation, volume: Volume, spacing_mm: Spacing | None, count: int = 1
) -> None:
    """Show the network `count` slices on each side of every slice, as channels (2.5D)."""
    if count < 0:
        raise ValueError(f"count is {count}")
    plan.neighbours = count
