"""Judging a model by the worker's own way: images of a folder wrapped as DICOM, then read back.

Each group is stored in another way in turn: 12 bits, 16 bits, MONOCHROME1, another size. What the
wrapping cannot know (modality, body part) is written as the model asks for it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)
from torch.nn import functional

from core.errors import NotApplicableError
from core.identifiers import derived_uid
from core.modelspec import ModelSpec
from core.settings import Settings
from models.registry import Examined, LoadedModel
from models.training.data import Group
from models.training.evaluate import Examine, Judged
from workers.asking import ask, within_domain, without
from workers.images.build import build_stacks
from workers.images.read import read_series

_CLASSES = {
    "MR": MRImageStorage,
    "CT": CTImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "US": UltrasoundImageStorage,
    "CR": ComputedRadiographyImageStorage,
}
_SLICE_MM = 5.0
_USUAL_MM = 1.0  # a pixel, where the preprocessing asks for no spacing


@dataclass(frozen=True, slots=True)
class Storing:
    """One way in which images are stored.

    Attributes:
        bits: Bits Stored.
        inverted: MONOCHROME1.
        scale: rows and columns times this, by bilinear interpolation.
    """

    bits: int = 12
    inverted: bool = False
    scale: float = 1.0


WAYS = (Storing(12), Storing(16), Storing(12, inverted=True), Storing(12, scale=1.5))


def examine_as_dicom(model: LoadedModel, settings: Settings) -> Examine:
    """Ask `model` about a group's images as a worker would, each group stored in another way.

    A group that the worker's way refuses as a whole is refused; the answer comes back to the
    size of the folder's images.
    """
    numbers = count()

    def examine(group: Group) -> Judged:
        way = WAYS[next(numbers) % len(WAYS)]
        files = wrap(group, model.spec, way)
        stacks = build_stacks(
            read_series(files), model.spec.input, max_voxels=settings.worker.max_voxels
        )
        try:
            ((stack, inside),) = within_domain(stacks, model)
        except NotApplicableError:
            nothing = Examined(None, None, None)
            return Judged(nothing, np.ones(len(group.images), dtype=bool))
        answered = ask(stack, model, settings.worker.batch_size, lambda: None)
        found = without(answered, ~inside)
        shape = group.images.shape[1:]
        pixels = None if found.pixels is None else _resized(found.pixels, shape)
        return Judged(Examined(pixels, found.scores, None), ~inside)

    return examine


def wrap(group: Group, spec: ModelSpec, way: Storing) -> list[bytes]:
    """The group's images as Part 10 files of one series, in their order.

    A volume's slices are axial, from foot to head, with the pixel spacing that the model's
    preprocessing resamples to; images have no size.
    """
    values = np.asarray(group.images)
    top = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else max(float(values.max()), 1.0)
    most = 2**way.bits - 1
    scaled = values.astype(np.float32) / top * most
    if way.scale != 1.0:
        rows, columns = (round(side * way.scale) for side in values.shape[1:])
        scaled = _resized(scaled, (rows, columns))
    stored = np.clip(np.rint(scaled), 0, most).astype(np.uint16)
    if way.inverted:
        stored = most - stored
    return [_file(image, number, group.name, spec, way) for number, image in enumerate(stored)]


def _file(
    image: npt.NDArray[np.uint16], number: int, name: str, spec: ModelSpec, way: Storing
) -> bytes:
    made = Dataset()
    made.Modality = spec.input.modality[0]
    made.SOPClassUID = _CLASSES.get(made.Modality, SecondaryCaptureImageStorage)
    made.SOPInstanceUID = derived_uid("judging", name, str(number))
    made.StudyInstanceUID = derived_uid("judging", name, "study")
    made.SeriesInstanceUID = derived_uid("judging", name, "series")
    made.PatientID, made.PatientName = "JUDGED", "Judged"
    made.InstanceNumber = number + 1
    made.Rows, made.Columns = image.shape
    made.SamplesPerPixel, made.PixelRepresentation = 1, 0
    made.PhotometricInterpretation = "MONOCHROME1" if way.inverted else "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, way.bits, way.bits - 1
    made.PixelData = image.tobytes()
    if spec.input.kind == "volume":
        wanted = (step.params.get("spacing") for step in spec.preprocessing)
        pixel = next((float(value) for value in wanted if value), _USUAL_MM) / way.scale
        made.FrameOfReferenceUID = derived_uid("judging", name, "frame")
        made.PixelSpacing = [f"{pixel:.8g}"] * 2
        made.SliceThickness = _SLICE_MM
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.ImagePositionPatient = [0, 0, number * _SLICE_MM]
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    with io.BytesIO() as buffer:
        made.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def _resized(values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """(…, rows, columns) to `shape`, bilinear, the outer edges kept."""
    if values.shape[-2:] == shape:
        return values
    flat = torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, *values.shape[-2:])
    made = functional.interpolate(
        flat, size=shape, mode="bilinear", align_corners=False, antialias=True
    )
    return made.numpy().reshape(*values.shape[:-2], *shape).astype(values.dtype)
