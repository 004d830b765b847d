"""The volume, the masks and dcmqi's command line of results_bench.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from core.modelspec import Code
from workers.images.stack import Basis, Calibration, ImageFrame, ImageStack

SHAPE = (300, 512, 512)
SPACING = (1.25, 0.7, 0.7)  # mm: slices, rows, columns
ORIGIN = (-179.2, -179.2, -100.0)
RADII = {1: 60, 5: 35, 50: 18}  # voxels
PEER = Path(sys.executable).parent / "itkimage2segimage"

HU = Code(value="[hnsf'U]", scheme="UCUM", meaning="Hounsfield unit")
ATTENUATION = Code(value="112031", scheme="DCM", meaning="Attenuation Coefficient")
CATEGORY = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
LESION = Code(value="52988006", scheme="SCT", meaning="Lesion")


def label_map(segments: int) -> npt.NDArray[np.uint16]:
    """Balls in a square grid, each at a slice of its own, uint16 (slices, rows, columns)."""
    made = np.zeros(SHAPE, dtype=np.uint16)
    rng = np.random.default_rng(segments)
    radius = RADII[segments]
    side = int(np.ceil(segments**0.5))
    cell = 480 // side
    z, y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    ball = z * z + y * y + x * x <= radius * radius
    for segment in range(segments):
        row, column = (16 + cell * place + cell // 2 for place in divmod(segment, side))
        slice_ = int(rng.integers(radius, SHAPE[0] - radius))
        box = tuple(slice(c - radius, c + radius + 1) for c in (slice_, row, column))
        made[box][ball] = segment + 1
    return made


def write_source(folder: Path) -> list[Path]:
    """300 CT slices with noise in them."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(900, 1100, SHAPE[1:], dtype=np.uint16).tobytes()
    paths = []
    for index in range(SHAPE[0]):
        dataset = Dataset()
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = f"2.25.100.{index + 1}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.200", "2.25.300"
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = "2.25.400", ""
        dataset.PatientName, dataset.PatientID = "Phantom^Benchmark", "PHANTOM"
        dataset.PatientBirthDate, dataset.PatientSex = "", "O"
        dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "A1", ""
        dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20250101"
        dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101010"
        dataset.Modality, dataset.Manufacturer = "CT", "none"
        dataset.SeriesNumber, dataset.InstanceNumber = 1, index + 1
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + SPACING[0] * index]
        dataset.PixelSpacing, dataset.SliceThickness = list(SPACING[1:]), SPACING[0]
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = SHAPE[1:]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = noise
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        paths.append(folder / f"{index:03}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def read_stack(paths: list[Path], array: npt.NDArray[np.float32]) -> ImageStack:
    """The headers of `paths`, in order, with the pixels given."""
    datasets = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    frames: list[ImageFrame] = []
    for dataset in datasets:
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        a, b, c, d, e, f = (float(value) for value in dataset.ImageOrientationPatient)
        frames.append(ImageFrame(dataset, position=(x, y, z), orientation=(a, b, c, d, e, f)))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING)[::-1]
    affine[:3, 3] = ORIGIN
    return ImageStack(
        array, tuple(frames), ATTENUATION, HU, affine, (Calibration(*SPACING[1:], Basis.PATIENT),),
        str(datasets[0].FrameOfReferenceUID),
    )  # fmt: skip


def peer_command(folder: Path, segments: int) -> list[str | Path]:
    """dcmqi's command line for the mask of so many segments."""
    return [
        PEER, "--inputDICOMDirectory", folder / "source", "--inputImageList",
        folder / f"{segments}.nrrd", "--inputMetadata", folder / f"{segments}.json",
        "--outputDICOM", folder / f"dcmqi-{segments}.dcm",
    ]  # fmt: skip


def write_peer_input(folder: Path, segments: int, mask: npt.NDArray[np.uint16]) -> None:
    """The mask as NRRD and what dcmqi must know of its segments."""
    columns, rows, slices = (f"{spacing:g}" for spacing in SPACING[::-1])
    head = (
        "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {SHAPE[2]} {SHAPE[1]} {SHAPE[0]}\n"
        f"space directions: ({columns},0,0) (0,{rows},0) (0,0,{slices})\n"
        "kinds: domain domain domain\nendian: little\nencoding: raw\n"
        f"space origin: ({ORIGIN[0]},{ORIGIN[1]},{ORIGIN[2]})\n\n"
    )
    (folder / f"{segments}.nrrd").write_bytes(head.encode() + mask.astype(np.uint8).tobytes())

    def coded(code: Code) -> dict[str, str]:
        return {
            "CodeValue": code.value,
            "CodingSchemeDesignator": code.scheme,
            "CodeMeaning": code.meaning,
        }

    attributes = [
        {
            "labelID": number,
            "SegmentLabel": f"Lesion {number}",
            "SegmentDescription": f"Lesion {number}",
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "Benchmark",
            "SegmentedPropertyCategoryCodeSequence": coded(CATEGORY),
            "SegmentedPropertyTypeCodeSequence": coded(LESION),
            "recommendedDisplayRGBValue": [255, 64, 64],
        }
        for number in range(1, segments + 1)
    ]
    about = {
        "ContentCreatorName": "Benchmark",
        "SeriesDescription": "Benchmark",
        "SeriesNumber": "1001",
        "InstanceNumber": "1",
        "ContentLabel": "AI_LESIONS",
        "ContentDescription": "Benchmark",
        "segmentAttributes": [attributes],
    }
    (folder / f"{segments}.json").write_text(json.dumps(about))
