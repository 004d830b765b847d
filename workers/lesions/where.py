"""Where in an image a classifier looked, by the name of the place.

The place follows from the class activation map (`models.activation`) and from what was outlined:
zones of an outlined lung (PS3.16 CID 6171), thirds of another structure or of the image, within
or outside the lesions. It says where the network looked, not where a disease is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.domain import Evaluation
from core.errors import DecodeError
from core.modelspec import Code
from workers.analysis import Part
from workers.images.attributes import texts
from workers.images.stack import ImageFrame
from workers.lesions import concepts

# With less of the map in the structure than this, the network looked elsewhere.
_LEAST_INSIDE = 0.5

Maps = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def looked_at(part: Part, index: int) -> tuple[Evaluation, ...]:
    """Place and side of the activation in frame `index`; nothing where there is no map.

    Of a slice of a volume nothing is said: upper and lower are no places in it.
    """
    if part.activation is None or part.stack.is_volume:
        return ()
    heat = np.maximum(np.nan_to_num(part.activation[index].astype(np.float32)), 0)
    total = float(heat.sum())
    if total <= 0:
        return ()
    labels = part.label_map[index]
    anatomy = next((one for one in part.structures if np.any(labels == one.segment)), None)
    if anatomy is not None:
        inside = labels == anatomy.segment
        if float(heat[inside].sum()) < _LEAST_INSIDE * total:
            return (Evaluation(concepts.ACTIVATION_PLACE, concepts.OUTSIDE_STRUCTURE),)
        lung = anatomy.type.value == concepts.LUNG.value
        thirds = concepts.LUNG_ZONES if lung else concepts.STRUCTURE_THIRDS
        return _place(heat * inside, inside, thirds, part.stack.frames[index])
    if part.findings and labels.any():
        within = float(heat[labels > 0].sum()) >= _LEAST_INSIDE * total
        place = concepts.IN_LESION if within else concepts.OFF_LESION
        return (Evaluation(concepts.ACTIVATION_PLACE, place),)
    everywhere = np.ones(heat.shape, dtype=bool)
    return _place(heat, everywhere, concepts.IMAGE_THIRDS, part.stack.frames[index])


def _place(
    heat: Maps, inside: Mask, thirds: tuple[Code, ...], frame: ImageFrame | None
) -> tuple[Evaluation, ...]:
    """The side and the third of `inside` where `heat` has its greatest sum."""
    columns = np.flatnonzero(inside.any(axis=0))
    middle = (int(columns[0]) + int(columns[-1]) + 1) / 2
    sums: dict[tuple[int, int], float] = {}
    for side, half in enumerate((slice(0, round(middle)), slice(round(middle), None))):
        rows = np.flatnonzero(inside[:, half].any(axis=1))
        if not len(rows):
            continue
        top, height = int(rows[0]), int(rows[-1]) + 1 - int(rows[0])
        edges = [top + round(height * step / 3) for step in range(4)]
        for third in range(3):
            sums[side, third] = float(heat[edges[third] : edges[third + 1], half].sum())
    side, third = max(sums, key=lambda key: sums[key])
    return (
        Evaluation(concepts.ACTIVATION_PLACE, thirds[third]),
        Evaluation(concepts.ACTIVATION_SIDE, _side(side, frame)),
    )


def _side(half: int, frame: ImageFrame | None) -> Code:
    """Which side half 0 (left) or 1 (right) of the image is.

    The patient's by Patient Orientation (0020,0020), where its first value leads along the rows
    to L or R (PS3.3 C.7.6.1.1.1); else the image's own.
    """
    leads: tuple[str, ...] = ()
    if frame is not None:
        try:
            leads = texts(frame.dataset, "PatientOrientation")
        except DecodeError:  # one that cannot be read says nothing
            leads = ()
    towards = leads[0][:1] if len(leads) == 2 else ""
    if towards not in {"L", "R"}:
        return concepts.RIGHT_OF_IMAGE if half else concepts.LEFT_OF_IMAGE
    return concepts.LEFT if (towards == "L") == bool(half) else concepts.RIGHT
