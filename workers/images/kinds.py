"""What is an image at all: objects without pictures, and objects made from images, are not."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.uid import UID

from core.domain import IDENTITY_KEYWORDS
from core.errors import DecodeError, NotApplicableError, ResultError
from workers.images.attributes import text, texts, whole
from workers.images.read import pixel_keyword

# Words in the names of SOP classes (PS3.4 B.5), in this order, and what such an object is.
_NO_IMAGES: tuple[tuple[str, str], ...] = (
    ("Media Storage Directory", "a directory, not an image"),
    ("Segmentation", "an object made from images, not an image"),
    ("Parametric Map", "an object made from images, not an image"),
    ("RT Dose", "a dose, not an image"),
    ("Key Object", "a list of images, not an image"),
    (" SR ", "a report, not an image"),
    ("Encapsulated", "a document, not an image"),
    ("Waveform", "a waveform, not an image"),
    ("Presentation State", "a way to show images, not an image"),
    ("Plan Storage", "a treatment plan, not an image"),
    ("Structure Set", "an object made from images, not an image"),
    ("Spectroscopy", "a spectrum, not an image"),
    ("Raw Data", "raw data, not an image"),
    ("Registration", "a registration, not an image"),
    ("Whole Slide", "a slide in tiles, which is not read"),
    ("Video", "a video, which is not read"),
)

_OWN_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def check_identity(datasets: Sequence[Dataset]) -> None:
    """See that all instances are of one patient, study and series (promise 3).

    Raises:
        NotApplicableError: there are none.
        DecodeError: one lacks the UIDs that results refer to it by.
        ResultError: they differ.
    """
    if not datasets:
        raise NotApplicableError("the series has no images")
    for number, dataset in enumerate(datasets, start=1):
        for keyword in _OWN_UIDS:
            if len(texts(dataset, keyword)) != 1:
                raise DecodeError(
                    f"image {number} has no {keyword}, or several: nothing can refer to it"
                )
    for keyword in (*IDENTITY_KEYWORDS, "SeriesInstanceUID"):
        if len({text(dataset, keyword) for dataset in datasets}) > 1:
            raise ResultError(
                f"the images of one series do not agree on {keyword}",
                remedy="Correct the study at its source and send it again.",
            )


def check_images(datasets: Sequence[Dataset]) -> None:
    """See that every instance is an image.

    Raises:
        NotApplicableError: one is not; the message says what it is.
    """
    for dataset in datasets:
        meta = getattr(dataset, "file_meta", Dataset())
        uid = text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
        name = UID(uid).name
        for word, what in _NO_IMAGES:
            if word in name:
                raise NotApplicableError(f"the series holds {what} ({name})")
        if pixel_keyword(dataset) is None:
            raise NotApplicableError("the series holds objects without pixel data")
        if whole(dataset, "Rows") < 1 or whole(dataset, "Columns") < 1:
            raise NotApplicableError("images without Rows and Columns have no pixels")
