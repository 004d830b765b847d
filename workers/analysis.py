"""What one job found, before it is written down: the input and the answer side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from core.domain import Finding
from core.modelspec import ModelSpec
from workers.images.stack import ImageStack, instances_of


@dataclass(frozen=True, eq=False)
class Part:
    """One stack of images and what was found in it; each part has a SEG of its own.

    Attributes:
        label_map: uint16 (frames, rows, columns) in the stack's own grid; the finding's
            `segment` at each of its voxels, 0 elsewhere.
        findings: the lesions in it; segments 1, 2, 3 … in this order. None for a classifier.
        structures: anatomy that was outlined in it, one for each label; their segments follow
            those of the lesions. They are no findings.
        probabilities: float16 (channels, frames, rows, columns), where they were kept (for a
            FRACTIONAL SEG); a lesion's channel is its `channel`.
        activation: float16 (frames, rows, columns), 0 to 1: where a classifier looked.
    """

    stack: ImageStack
    label_map: npt.NDArray[np.uint16]
    findings: tuple[Finding, ...] = ()
    probabilities: npt.NDArray[np.float16] | None = None
    activation: npt.NDArray[np.float16] | None = None
    structures: tuple[Finding, ...] = ()

    @property
    def segments(self) -> tuple[Finding, ...]:
        """All that has a segment in this part's SEG, in the order of the segments."""
        return (*(one for one in self.findings if one.segment), *self.structures)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that a job's objects are made from.

    Attributes:
        announced: how many images there should be, where that is known and fewer came; a
            remark says so as well.
        parts: at least one. `finding.part` is the index here.
        findings: in the order of the report: classifications, then lesions, largest first; or
            one with number 0 that says that what was sought is absent.
        too_small, too_small_ml: lesions under the least size that are not listed (mL only where
            there is a volume).
        left_out, left_out_ml: lesions over the largest number that are not listed.
        remarks: what every reader must know, whole sentences ("21 of 22 images were analysed").
    """

    spec: ModelSpec
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]
    too_small: int = 0
    too_small_ml: float = 0.0
    left_out: int = 0
    left_out_ml: float = 0.0
    remarks: tuple[str, ...] = ()
    announced: int | None = None

    @property
    def lesions(self) -> tuple[Finding, ...]:
        """The findings that have a segment."""
        return tuple(finding for finding in self.findings if finding.segment)

    @property
    def structures(self) -> tuple[Finding, ...]:
        """Anatomy that was outlined, of all parts; no findings."""
        return tuple(one for part in self.parts for one in part.structures)

    @property
    def source(self) -> Dataset:
        """The header that identity is copied from."""
        return self.parts[0].stack.source

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The headers of every instance that was analysed, each once."""
        return instances_of([part.stack for part in self.parts])
