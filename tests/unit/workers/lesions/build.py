"""Stacks, specifications and digital phantoms for the tests of `workers.lesions`."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from core.modelspec import Code, ModelSpec
from workers.analysis import Analysis
from workers.images.stack import ImageFrame, ImageStack
from workers.lesions.find import find_lesions

HU = Code(value="[hnsf'U]", scheme="UCUM", meaning="Hounsfield unit")
ATTENUATION = Code(value="112031", scheme="DCM", meaning="Attenuation Coefficient")
MASS = Code(value="4147007", scheme="SCT", meaning="Mass")
ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")


def make_spec(labels: Any = ("lesion",), kind: str = "segmentation", **more: Any) -> ModelSpec:
    """A specification; `more` goes to the output, but for `least` (postprocessing)."""
    least = more.pop("least", {})
    return ModelSpec(
        schema_version=1,
        name="test",
        version="1.2.3",
        title="Test model",
        intended_use="tests",
        licence="none",
        family=Code(value="123110", scheme="DCM", meaning="Artificial Intelligence"),
        input={"modality": ("MR",)},
        network={"architecture": "none"},
        weights={"file": "w", "sha256": "0" * 64},
        output={
            "kind": kind,
            "labels": [
                {"channel": channel, "category": ABNORMAL, "type": MASS}
                | ({"name": label} if isinstance(label, str) else label)
                for channel, label in enumerate(labels)
            ],
            **more,
        },
        postprocessing=least,
        training={"data": "none", "licence": "none", "config": "none"},
    )


def make_frames(count: int, missing: tuple[int, ...] = (), multi: bool = False) -> Any:
    frames: list[ImageFrame | None] = []
    shared = Dataset()
    shared.SOPInstanceUID = "1.2.3"
    for index in range(count):
        dataset = Dataset()
        dataset.SOPInstanceUID = f"1.2.3.{index + 1}"
        if index in missing:
            frames.append(None)
        elif multi:
            frames.append(ImageFrame(shared, index + 1, multi_frame=True))
        else:
            frames.append(ImageFrame(dataset))
    return tuple(frames)


def make_affine(spacing: Any = (1.0, 1.0, 1.0), origin: Any = (0.0, 0.0, 0.0)) -> Any:
    """Axial: slices towards the head (z), rows towards the back (y), columns to the left (x)."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:3, 3] = origin
    affine[3, 3] = 1
    return affine


def make_volume(
    array: Any, spacing: Any = (1.0, 1.0, 1.0), affine: Any = None, **more: Any
) -> ImageStack:
    array = np.asarray(array, dtype=np.float32)
    missing = more.pop("missing", ())
    return ImageStack(
        array=array,
        frames=make_frames(len(array), missing),
        quantity=more.pop("quantity", ATTENUATION),
        unit=more.pop("unit", HU),
        affine=make_affine(spacing) if affine is None else affine,
        frame_of_reference_uid=more.pop("frame_of_reference_uid", "2.25.1"),
        **more,
    )


def make_images(array: Any, **more: Any) -> ImageStack:
    array = np.asarray(array, dtype=np.float32)
    return ImageStack(
        array=array,
        frames=make_frames(len(array), multi=more.pop("multi", False)),
        quantity=more.pop("quantity", ATTENUATION),
        unit=more.pop("unit", HU),
        **more,
    )


def answer_of(mask: Any) -> Any:
    """Probabilities of one channel: 0.9 in the mask, 0.1 elsewhere."""
    return np.where(mask, np.float16(0.9), np.float16(0.1))[None]


def find(stack: ImageStack, mask: Any, spec: ModelSpec | None = None, **more: Any) -> Analysis:
    more.setdefault("job_id", "job")
    return find_lesions([(stack, answer_of(mask))], spec or make_spec(), **more)


def value_of(finding: Any, concept: Code, derivation: Code | None = None) -> float:
    """The one measurement of `concept`."""
    (value,) = (
        m.value for m in finding.measurements if m.concept == concept and m.derivation == derivation
    )
    return float(value)


def concepts_of(finding: Any) -> set[Code]:
    return {measured.concept for measured in finding.measurements}


def ellipsoid(shape: Any, centre: Any, radii: Any) -> Any:
    grid = np.ogrid[tuple(slice(0, size) for size in shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def rotation(seed: int) -> Any:
    """A random rotation matrix."""
    from scipy.spatial.transform import Rotation

    return Rotation.random(rng=seed).as_matrix()
