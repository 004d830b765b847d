"""Images that are no volume: radiographs, mammograms, ultrasound, angiography, captures."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
)

from support.phantoms_base import STUDY, Phantom, Study, code, instance, item
from support.phantoms_pixels import put_colour, put_grey

Colour = Literal["grey", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR"]
SIZE = (64, 80)
DISC = (24.0, 50.0, 9.0)
MAGNIFICATION = 1.25
_DETECTOR_MM = 0.2
_FRAME_TIME_MS = 40.0
# Red, green, blue of the lesion and of what is around it, and their luminance (ITU-R BT.601).
_LESION_RGB, _BACKGROUND_RGB = (230, 90, 60), (40, 60, 80)


def disc_mask(frames: int = 1) -> np.ndarray:
    """Pixels whose centre lies in the lesion: bool (frames, rows, columns)."""
    row, column = np.indices(SIZE)
    inside = np.hypot(row - DISC[0], column - DISC[1]) <= DISC[2]
    return np.repeat(inside[None], frames, axis=0)


def cr(study: Study = STUDY, *, calibrated: bool = False) -> Phantom:
    """Computed radiograph (PS3.3 A.2), MONOCHROME1, 10 bits: a lesion that is bright as shown.

    `calibrated` adds Pixel Spacing from a fiducial (PS3.3 10.7.1.1).
    """
    kind = "CR calibrated" if calibrated else "CR"
    made = instance(study, ComputedRadiographyImageStorage, "CR", kind, ImageType=_ORIGINAL)
    made.PatientOrientation, made.BodyPartExamined, made.ViewPosition = ["L", "F"], "CHEST", "PA"
    made.KVP, made.PlateID = 120, "1"
    made.ImagerPixelSpacing = [_DETECTOR_MM, _DETECTOR_MM]
    if calibrated:
        made.PixelSpacing = [_DETECTOR_MM / MAGNIFICATION, _DETECTOR_MM / MAGNIFICATION]
        made.PixelSpacingCalibrationType = "FIDUCIAL"
        made.PixelSpacingCalibrationDescription = "a ball of known size"
    put_grey(made, 1023 - _drawn(800, 200)[0], bits=10, photometric="MONOCHROME1")
    mm = _DETECTOR_MM / MAGNIFICATION
    return _image(kind, made, 800, 200, (mm, mm) if calibrated else None)


def dx(
    study: Study = STUDY,
    *,
    magnified: bool = True,
    laterality: str = "U",
    inverse: bool = False,
) -> Phantom:
    """Digital X-ray for presentation (PS3.3 A.26), 12 bits.

    Pixels at the detector are 0.2 mm; with `magnified` a factor is stated, and they are 0.16 mm
    in the patient. `inverse` stores MONOCHROME1; the values are as shown in both.
    """
    kind = "DX inverse" if inverse else "DX magnified" if magnified else "DX"
    made = instance(study, DigitalXRayImageStorageForPresentation, "DX", kind, ImageType=_ORIGINAL)
    _digital(made, laterality, inverse)
    made.AnatomicRegionSequence = [code("43799004", "SCT", "Thoracic cavity")]
    made.ViewCodeSequence = [code("399348003", "SCT", "antero-posterior")]
    made.PatientOrientation, made.BodyPartExamined = ["L", "F"], "CHEST"
    if magnified:
        made.EstimatedRadiographicMagnificationFactor = MAGNIFICATION
        made.DistanceSourceToDetector, made.DistanceSourceToPatient = 1500, 1200
    shown = _drawn(3000, 800)[0]
    put_grey(
        made, 4095 - shown if inverse else shown,
        photometric="MONOCHROME1" if inverse else "MONOCHROME2",
    )  # fmt: skip
    mm = _DETECTOR_MM / MAGNIFICATION
    return _image(kind, made, 3000, 800, (mm, mm) if magnified else None)


def mg(side: Literal["L", "R"] = "L", study: Study = STUDY) -> Phantom:
    """Mammogram for presentation (PS3.3 A.27), 12 bits, cranio-caudal, of one side."""
    made = instance(
        study,
        DigitalMammographyXRayImageStorageForPresentation,
        "MG",
        f"MG {side}",
        ImageType=_ORIGINAL,
    )
    _digital(made, side, inverse=False)
    made.PositionerType, made.OrganExposed, made.BodyPartExamined = (
        "MAMMOGRAPHIC",
        "BREAST",
        "BREAST",
    )
    made.BreastImplantPresent, made.PartialView = "NO", "NO"
    made.AnatomicRegionSequence = [code("76752008", "SCT", "Breast")]
    view = code("399162004", "SCT", "cranio-caudal")
    view.ViewModifierCodeSequence = []
    made.ViewCodeSequence = [view]
    made.PatientOrientation = ["P", "L"] if side == "R" else ["A", "R"]
    put_grey(made, _drawn(3000, 800)[0])
    return _image(f"MG {side}", made, 3000, 800, None)


def us(
    colour: Colour = "RGB",
    frames: int = 1,
    study: Study = STUDY,
    *,
    calibrated: bool = True,
) -> Phantom:
    """Ultrasound (PS3.3 A.6 and A.7), 8 bits, its calibration inside one region only.

    Native ultrasound is grey, RGB or PALETTE COLOR (C.8.5.6.1.2).
    A pixel is 0.03 cm down and 0.02 cm along. The lesion lies within the region.
    """
    kind = UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
    series = f"US {colour} {frames}"
    made = instance(study, kind, "US", series)
    made.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]
    made.PatientOrientation, made.BodyPartExamined = "", "ABDOMEN"
    if calibrated:
        made.SequenceOfUltrasoundRegions = [_region()]
    if frames > 1:
        made.FrameTime, made.FrameIncrementPointer = _FRAME_TIME_MS, 0x00181063
        made.StartTrim, made.StopTrim = 1, frames
    if colour != "grey":
        made.UltrasoundColorDataPresent = 1
    levels = _put_colour(made, colour, frames)
    return _image(series, made, *levels, (0.3, 0.2) if calibrated else None, frames)


def xa(frames: int = 4, study: Study = STUDY) -> Phantom:
    """Angiogram (PS3.3 A.14), several frames, 8 bits, pixel size at the detector."""
    made = instance(study, XRayAngiographicImageStorage, "XA", "XA")
    made.ImageType, made.PatientOrientation = ["ORIGINAL", "PRIMARY", "SINGLE PLANE"], ["L", "F"]
    made.PixelIntensityRelationship, made.RadiationSetting = "LIN", "GR"
    made.KVP, made.XRayTubeCurrent, made.ExposureTime, made.Exposure = 80, 100, 10, 1
    made.ImagerPixelSpacing = [_DETECTOR_MM, _DETECTOR_MM]
    made.PositionerMotion, made.Laterality = "STATIC", ""
    made.PositionerPrimaryAngle = made.PositionerSecondaryAngle = 0
    made.FrameTime, made.FrameIncrementPointer = _FRAME_TIME_MS, 0x00181063
    put_grey(made, _drawn(200, 60, frames), bits=8)
    return _image("XA", made, 200, 60, None, frames)


def sc(
    bits: int = 8,
    study: Study = STUDY,
    *,
    signed: bool = False,
    inverse: bool = False,
    spacing_known: bool = False,
) -> Phantom:
    """Grey Secondary Capture (PS3.3 A.8) of any depth: its lesion at ¾ of the range, the rest ¼.

    Signed values go from below to above 0. `inverse` stores MONOCHROME1; the values are as shown.
    """
    series = f"SC {'s' if signed else 'u'}{bits}{' inverse' if inverse else ''}"
    made = instance(
        study, SecondaryCaptureImageStorage, "OT", series, ImageType=["DERIVED", "SECONDARY"]
    )
    made.ConversionType, made.PatientOrientation, made.Laterality = "WSD", "", ""
    if spacing_known:
        made.NominalScannedPixelSpacing = [0.5, 0.4]
    high, low = 0.75 * 2**bits, 0.25 * 2**bits
    if signed:
        high, low = high - 2 ** (bits - 1), low - 2 ** (bits - 1)
    shown = _drawn(high, low)[0]
    largest = -1 if signed else 2**bits - 1  # and the least together
    put_grey(
        made, largest - shown if inverse else shown, bits=bits, signed=signed,
        photometric="MONOCHROME1" if inverse else "MONOCHROME2",
    )  # fmt: skip
    return _image(series, made, high, low, (0.5, 0.4) if spacing_known else None)


def sc_colour(
    colour: Colour = "RGB", frames: int = 1, study: Study = STUDY
) -> Phantom:  # fmt: skip
    """Colour Secondary Capture (PS3.3 A.8); several frames by A.8.5, which takes RGB only."""
    several = frames > 1
    kind = (
        MultiFrameTrueColorSecondaryCaptureImageStorage if several else SecondaryCaptureImageStorage
    )
    series = f"SC {colour} {frames}"
    made = instance(study, kind, "OT", series, ImageType=["DERIVED", "SECONDARY"])
    made.ConversionType, made.PatientOrientation, made.Laterality = "WSD", "", ""
    if frames > 1:
        made.FrameTime, made.FrameIncrementPointer = _FRAME_TIME_MS, 0x00181063
    levels = _put_colour(made, colour, frames)
    return _image(series, made, *levels, None, frames)


_ORIGINAL = ["ORIGINAL", "PRIMARY"]


def _drawn(inside: float, outside: float, frames: int = 1) -> np.ndarray:
    return np.where(disc_mask(frames), inside, outside).astype(np.float64)


def _image(
    kind: str,
    made: Dataset,
    inside: float,
    outside: float,
    pixel_mm: tuple[float, float] | None,
    frames: int = 1,
) -> Phantom:
    return Phantom(
        kind, [made], float(inside), float(outside), disc_mask(frames), disc=DISC, pixel_mm=pixel_mm
    )


def _put_colour(made: Dataset, colour: Colour, frames: int) -> tuple[float, float]:
    """Write the picture; gives the lesion's luminance and the background's."""
    mask = disc_mask(frames) if frames > 1 else disc_mask()[0]
    levels = (_luminance(_LESION_RGB), _luminance(_BACKGROUND_RGB))
    if colour == "grey":
        levels = (200.0, 50.0)
        put_grey(made, np.where(mask, *levels), bits=8)
    elif colour == "PALETTE COLOR":
        put_grey(made, mask.astype(float), bits=8, photometric=colour)
        for channel, name in enumerate(("Red", "Green", "Blue")):
            table = np.arange(256, dtype="<u2") * 257  # entries beyond the two are grey
            table[:2] = np.array([_BACKGROUND_RGB[channel], _LESION_RGB[channel]]) * 257
            setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(made, f"{name}PaletteColorLookupTableData", table.tobytes())
    else:
        rgb = np.where(mask[..., None], _LESION_RGB, _BACKGROUND_RGB).astype(np.uint8)
        put_colour(
            made, rgb if colour == "RGB" else convert_color_space(rgb, "RGB", "YBR_FULL"), colour
        )
    return levels


def _luminance(rgb: tuple[int, int, int]) -> float:
    return float(np.dot(rgb, (0.299, 0.587, 0.114)))


def _region() -> Dataset:
    """All but a margin of the image, calibrated in cm (PS3.3 C.8.5.5)."""
    return item(
        RegionSpatialFormat=1,
        RegionDataType=1,
        RegionFlags=0,
        RegionLocationMinX0=8,
        RegionLocationMinY0=4,
        RegionLocationMaxX1=SIZE[1] - 5,
        RegionLocationMaxY1=SIZE[0] - 5,
        PhysicalUnitsXDirection=3,
        PhysicalUnitsYDirection=3,
        PhysicalDeltaX=0.02,
        PhysicalDeltaY=0.03,
    )


def _digital(made: Dataset, laterality: str, inverse: bool) -> None:
    """DX Series, DX Image, DX Detector, Display Shutter … (PS3.3 C.8.11)."""
    made.PresentationIntentType = "FOR PRESENTATION"
    made.PixelIntensityRelationship, made.PixelIntensityRelationshipSign = "LOG", 1
    made.RescaleIntercept, made.RescaleSlope, made.RescaleType = 0, 1, "US"
    made.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    made.WindowCenter, made.WindowWidth = 2048, 4096
    made.ImageLaterality, made.AcquisitionContextSequence = laterality, []
    made.DetectorType = "DIRECT"
    made.ImagerPixelSpacing = [_DETECTOR_MM, _DETECTOR_MM]
    made.KVP, made.PositionerType = 60, ""


def every_image() -> dict[str, Phantom]:
    """One of each, by its kind."""
    colours: tuple[Colour, ...] = ("grey", "RGB", "PALETTE COLOR")
    made = [cr(), cr(calibrated=True), dx(), dx(magnified=False), dx(inverse=True)]
    made += [mg("L"), mg("R"), xa()]
    made += [us(colour) for colour in colours] + [us("RGB", 3), us("grey", 3)]
    colours = ("RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR")
    made += [*(sc_colour(colour) for colour in colours), sc_colour("RGB", 2)]
    made += [sc(8), sc(10), sc(12), sc(16), sc(8, inverse=True)]
    made += [sc(12, signed=True), sc(16, signed=True, spacing_known=True)]
    return {phantom.kind: phantom for phantom in made}
