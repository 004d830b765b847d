"""Images made by code from a seed: any image can be made again when it is asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.dsutils import encode

SIZE = 32
BACKGROUND = 100
LESION = 3000
LEVEL = 1500.0  # what the model's threshold lies at


def uid_of(*parts: object) -> str:
    """A UID derived from `parts` (PS3.5 Section B.2)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@dataclass(frozen=True, slots=True)
class Series:
    """One series of one patient.

    Attributes:
        run: what tells one run of the torture from another.
        study, number: counted from 0.
        images: how many there are in the whole series.
        lesion: whether there is something to find.
    """

    run: str
    study: int
    number: int
    images: int
    lesion: bool

    @property
    def patient_id(self) -> str:
        """Patient ID, another one for each study."""
        return f"TORTURE-{self.study}"

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return uid_of(self.run, self.study)

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return uid_of(self.run, self.study, self.number)

    def sop_uid(self, index: int) -> str:
        """SOP Instance UID of image `index`, from 0."""
        return uid_of(self.run, self.study, self.number, index)

    @property
    def sop_uids(self) -> tuple[str, ...]:
        """SOP Instance UIDs of all images, foot to head."""
        return tuple(self.sop_uid(index) for index in range(self.images))

    def image(self, index: int) -> Dataset:
        """Image `index` (from 0), the same whenever it is made."""
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = self.sop_uid(index)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study_uid, self.uid
        dataset.FrameOfReferenceUID = uid_of(self.run, self.study, "frame")
        dataset.PatientID = self.patient_id
        dataset.PatientName = f"Torture^{self.study}"
        dataset.PatientBirthDate, dataset.PatientSex = "", ""
        dataset.AccessionNumber = f"T{self.study}"
        dataset.StudyID, dataset.StudyDate, dataset.StudyTime = "1", "20260102", "030405"
        dataset.ReferringPhysicianName = ""
        dataset.Modality, dataset.SeriesDescription = "MR", "TORTURE"
        dataset.SeriesNumber, dataset.InstanceNumber = self.number + 1, index + 1
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [0, 0, 4.0 * index]
        dataset.PixelSpacing, dataset.SliceThickness = [2, 2], 4
        dataset.Rows = dataset.Columns = SIZE
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = self._pixels(index).tobytes()
        return dataset

    def encodings(self, index: int) -> tuple[str, ...]:
        """SHA-256 of image `index` as a modality may have sent it: Explicit and Implicit VR."""
        dataset = self.image(index)
        encoded = (encode(dataset, implicit, True) for implicit in (False, True))
        return tuple(hashlib.sha256(data or b"").hexdigest() for data in encoded)

    def _pixels(self, index: int) -> np.ndarray:
        """Stored values, uint16 (rows, columns); a ball of `LESION` in the middle slices."""
        rng = np.random.default_rng((self.study, self.number, index))
        pixels = rng.integers(0, BACKGROUND, (SIZE, SIZE), dtype=np.uint16)
        if self.lesion:
            centre = np.random.default_rng((self.study, self.number)).integers(10, SIZE - 10, 2)
            rows, columns = np.ogrid[:SIZE, :SIZE]
            off = 2.0 * (index - self.images // 2)
            away = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 + off**2
            pixels[away <= 25] += LESION
        return pixels
