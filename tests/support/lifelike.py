"""A chest film and a breast scan drawn by code, like enough for the models in the box.

The other phantoms are discs on a plain ground: what they hold is known to a pixel, and a model
that was trained on patients refuses them. These look, roughly, as films and scans do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, UltrasoundImageStorage
from scipy import ndimage

from cli.phantom import write_phantom_study
from support.phantoms_base import STUDY, Phantom, Study, code, instance
from support.phantoms_pixels import put_grey

_FILM = (640, 600)
_SCAN = (400, 520)
_DETECTOR_MM = 0.55
_SCAN_CM = 0.009


def _places(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of pixels, 0 to 1 across the image."""
    row, column = np.indices(shape, dtype=np.float64)
    return row / shape[0], column / shape[1]


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Noise without a direction: mean 0, deviation 1."""
    made = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return np.asarray((made - made.mean()) / made.std())


def chest_film(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Grey values 0 to 1, bright where little came through, and the lung fields."""
    rng = np.random.default_rng(seed)
    y, x = _places(_FILM)
    body = 1 / (1 + np.exp((np.hypot((x - 0.5) / 0.53, np.maximum(0.12 - y, 0) * 4.2) - 1) * 22))
    thickness = body * (0.62 + 0.12 * np.abs(x - 0.5))
    lungs = np.zeros(_FILM)
    for side, middle, wide in ((-1, 0.28, 0.155), (1, 0.71, 0.145)):
        # narrow at the top, the inner border steep, the base a dome
        top = np.clip((y - 0.12) / 0.3, 0, 1) ** 0.6
        half = wide * (0.45 + 0.55 * top)
        centre = middle - side * 0.055 * (1 - top)
        across = np.abs((x - centre) / half)
        base = 0.72 + 0.05 * ((x - middle) / wide) ** 2 * 1.6 - (0.03 if side < 0 else 0.0)
        inside = (across < 1) & (y > 0.125 + 0.10 * across**2) & (y < base)
        lungs[inside] = 1
    heart = np.hypot((x - 0.56) / 0.135, (y - 0.62) / 0.15) < 1
    lungs[heart] = 0
    mask = lungs > 0.5
    soft = ndimage.gaussian_filter(lungs, 4)
    shade = thickness - 0.40 * soft
    shade += 0.16 * np.exp(-(((x - 0.5) / 0.045) ** 2)) * body  # spine and mediastinum
    shade += 0.10 * ndimage.gaussian_filter(heart.astype(float), 8)
    shade += 0.10 * body * np.clip((y - 0.72) / 0.12, 0, 1)  # below the diaphragm
    for side, middle in ((-1, 0.30), (1, 0.70)):
        for rib in range(9):
            height = 0.15 + 0.075 * rib
            away = (x - middle) * side
            arc = height + 0.10 * (away + 0.05) + 0.9 * away**2
            band = np.exp(-(((y - arc) / 0.0085) ** 2))
            shade += 0.045 * band * (np.abs(x - middle) < 0.19) * body
    for side in (-1, 1):  # the vessels of the hila
        spot = np.exp(-(((x - 0.5 - side * 0.10) / 0.05) ** 2 + ((y - 0.46) / 0.09) ** 2))
        shade += 0.10 * spot * (1 + 0.5 * _smooth(rng, _FILM, 3))
    shade += 0.035 * soft * _smooth(rng, _FILM, 2.5) + 0.03 * body * _smooth(rng, _FILM, 14)
    clavicle = np.exp(-(((y - 0.145 - 0.10 * np.abs(np.abs(x - 0.5) - 0.28)) / 0.011) ** 2))
    shade += 0.07 * clavicle * (np.abs(np.abs(x - 0.5) - 0.20) < 0.17)
    shade = ndimage.gaussian_filter(shade, 0.8) + 0.008 * rng.standard_normal(_FILM)
    low, high = np.quantile(shade, [0.01, 0.995])
    return np.clip((shade - low) / (high - low), 0, 1), mask


def breast_scan(seed: int = 1, *, lesion: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Grey values 0 to 1 of layers with speckle, and the lesion: dark, with a bright back."""
    rng = np.random.default_rng(seed)
    y, x = _places(_SCAN)
    wave = 0.018 * ndimage.gaussian_filter1d(rng.standard_normal(_SCAN[1]), 45) * 12
    depth = y + wave[None]
    echo = np.interp(
        depth,
        [0.0, 0.03, 0.07, 0.10, 0.26, 0.31, 0.58, 0.63, 0.72, 0.80, 1.0],
        [0.95, 0.75, 0.62, 0.30, 0.28, 0.55, 0.50, 0.62, 0.26, 0.42, 0.10],
    )
    streaks = ndimage.gaussian_filter(rng.standard_normal(_SCAN), (2.5, 16))
    echo = echo * (1 + 0.28 * streaks / streaks.std()) * (1 + 0.22 * _smooth(rng, _SCAN, 22))
    away = np.hypot((x - 0.47) / 0.16, (y - 0.42) / 0.125)
    edge = 1 + 0.05 * np.sin(5 * np.arctan2(y - 0.42, x - 0.47))
    mask = (away < edge) if lesion else np.zeros(_SCAN, dtype=bool)
    if lesion:
        within = ndimage.gaussian_filter(mask.astype(float), 2.5)
        echo = echo * (1 - within) + 0.10 * within
        behind = (np.abs(x - 0.47) < 0.14) & (y > 0.53) & (y < 0.75)
        echo *= 1 + 0.45 * ndimage.gaussian_filter(behind.astype(float), 7)
    echo = np.maximum(echo, 0.02) * np.interp(y, [0, 0.15, 1], [1.0, 1.05, 0.72])
    field = rng.standard_normal(_SCAN) + 1j * rng.standard_normal(_SCAN)
    speckle = np.abs(
        ndimage.gaussian_filter(field.real, (1.3, 2.2))
        + 1j * ndimage.gaussian_filter(field.imag, (1.3, 2.2))
    )
    shown = np.log1p(14 * echo * speckle / speckle.mean())
    low, high = np.quantile(shown, [0.02, 0.998])
    return np.clip((shown - low) / (high - low), 0, 1) ** 1.15, mask


def film(seed: int = 1, study: Study = STUDY) -> Phantom:
    """A digital chest film for presentation (PS3.3 A.26), 12 bits; its mask are the lungs."""
    values, mask = chest_film(seed)
    made = instance(
        study,
        DigitalXRayImageStorageForPresentation,
        "DX",
        f"chest film {seed}",
        ImageType=["ORIGINAL", "PRIMARY"],
    )
    made.PresentationIntentType, made.PixelIntensityRelationship = "FOR PRESENTATION", "LOG"
    made.PixelIntensityRelationshipSign, made.RescaleType = -1, "US"
    made.RescaleIntercept, made.RescaleSlope, made.PresentationLUTShape = 0, 1, "IDENTITY"
    made.ImageLaterality, made.AcquisitionContextSequence = "U", []
    made.AnatomicRegionSequence = [code("43799004", "SCT", "Thoracic cavity")]
    made.ViewCodeSequence = [code("399348003", "SCT", "antero-posterior")]
    made.PatientOrientation, made.BodyPartExamined = ["L", "F"], "CHEST"
    made.ViewPosition, made.ImagerPixelSpacing = "AP", [_DETECTOR_MM, _DETECTOR_MM]
    made.DetectorType = "DIRECT"
    put_grey(made, np.round(values * 4000 + 40))
    return Phantom("chest film", [made], 40.0, 3000.0, mask[None])


def scan(seed: int = 1, *, lesion: bool = True, study: Study = STUDY) -> Phantom:
    """A breast ultrasound image (PS3.3 A.6), grey, 8 bits; its mask is the lesion."""
    values, mask = breast_scan(seed, lesion=lesion)
    made = instance(
        study,
        UltrasoundImageStorage,
        "US",
        f"breast scan {seed} {lesion}",
        ImageType=["ORIGINAL", "PRIMARY", "BREAST", "0001"],
    )
    made.PatientOrientation, made.BodyPartExamined = "", "BREAST"
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = _SCAN[1] - 1, _SCAN[0] - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = _SCAN_CM
    made.SequenceOfUltrasoundRegions = [region]
    put_grey(made, np.round(values * 255), bits=8)
    mm = _SCAN_CM * 10
    return Phantom("breast scan", [made], 20.0, 120.0, mask[None], pixel_mm=(mm, mm))


def brain(folder: Path, seed: int = 1) -> Phantom:
    """The demo's FLAIR series; its mask are the lesions."""
    study = write_phantom_study(folder, seed=seed, series=("FLAIR",))
    return Phantom(
        "brain", [pydicom.dcmread(path) for path in study.files("FLAIR")], 148, 80, study.truth
    )
