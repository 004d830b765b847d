"""What the node made of a study, in a viewer: OHIF shows the segment where the lesion is.

The study is a phantom made by code. Everything runs on this machine: the node, a PACS with
DICOMweb, the viewer's own files and a browser without a screen.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from skimage.color import lab2rgb
from support.validators import dciodvfy, dsrdump, tid1500reader
from support.viewers import Viewer, dicomweb, store, viewer
from support.viewers_site import ohif

from cli.phantom import PhantomStudy, write_phantom_study

pytestmark = pytest.mark.timeout(420)


class AnalysedStudy(NamedTuple):
    """A phantom's images and what the node made of them."""

    images: PhantomStudy
    results: Path

    @property
    def paths(self) -> list[Path]:
        return [*self.images.paths, *sorted(self.results.glob("*.dcm"))]

    def result(self, modality: str) -> Path:
        (path,) = self.results.glob(f"{modality}-*.dcm")
        return path


def make_analysed_study(folder: Path) -> AnalysedStudy:
    """A FLAIR phantom, sent through a whole node as `sentinode demo` does."""
    study = write_phantom_study(folder / "images", series=("FLAIR",), random_uids=True)
    command = [sys.executable, "-m", "cli", "demo", "--study", str(study.folder)]
    done = subprocess.run(
        [*command, "--out", str(folder / "out")],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return AnalysedStudy(study, folder / "out" / "pacs")


@pytest.fixture
def analysed_study(tmp_path: Path) -> AnalysedStudy:
    ohif()  # fetched, or the test skipped, before the node computes for nothing
    return make_analysed_study(tmp_path / "study")


def test_the_viewer_shows_the_segment_on_the_lesion_and_the_figures(
    analysed_study: AnalysedStudy, tmp_path: Path
) -> None:
    images = analysed_study.images
    seg = hd.seg.segread(analysed_study.result("SEG"))
    report = pydicom.dcmread(analysed_study.result("SR"))
    largest = int(images.truth.sum(axis=(1, 2)).argmax())
    path = images.files("FLAIR")[largest]
    shown = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    for result in analysed_study.results.glob("*.dcm"):
        assert dciodvfy(result) == []
    assert len(tid1500reader(analysed_study.result("SR"))["Measurements"]) == seg.number_of_segments
    assert "Volume" in dsrdump(analysed_study.result("SR"))
    mask = seg.get_pixels_by_source_instance([shown], combine_segments=True)[0] > 0

    with dicomweb(tmp_path / "orthanc") as pacs:
        store(pacs, analysed_study.paths)
        with viewer(pacs, images.uid, tmp_path / "screenshots") as screen:
            screen.open_segmentation(int(seg.SeriesNumber))
            for segment in seg.SegmentSequence:
                label = screen.page.get_by_text(str(segment.SegmentLabel), exact=True)
                label.first.wait_for(timeout=60_000)
            # the segment's colour lies on exactly those pixels of the image that the SEG names …
            screen.slice_to(shown)
            colour = display_colour(seg.SegmentSequence[0])
            deadline = time.monotonic() + 60
            while True:
                # both anew each time: the viewer lays itself out again when its panel opens
                tinted = tinted_in(screen.canvas(), colour)
                voxels = voxels_on_screen(screen, images, largest)
                expected = inside(mask, voxels)
                overlap = (tinted & expected).sum() / max((tinted | expected).sum(), 1)
                if overlap > 0.97 or time.monotonic() > deadline:
                    break
                time.sleep(0.5)
                screen.slice_to(shown)  # it jumps to the segment by itself when it is loaded
            assert overlap > 0.97, f"overlap {overlap:.3f}"  # one voxel off is 0.94
            # … and these are where the phantom has its lesion
            pixel = float(np.linalg.norm(images.affine[:3, 1]))
            centre = voxels[tinted].mean(axis=0)
            truth = np.argwhere(images.truth[largest]).mean(axis=0)
            assert np.linalg.norm(centre - truth) * pixel < 8  # mm
            screen.screenshot("segment")

            screen.open_series(int(report.SeriesNumber))
            figures = measured(report)
            screen.wait_for_text(f"Volume: {figures['Volume']:.2f} mL")
            # it writes L and W for the two axes
            assert f"{figures['Long Axis']:.2f} mm" in screen.text()
            assert f"{figures['Short Axis']:.2f} mm" in screen.text()
            screen.screenshot("report")


def measured(report: Dataset) -> dict[str, float]:
    """The first value of each concept in a report: those of its first finding."""
    found: dict[str, float] = {}
    for item in items_of(report):
        if item.ValueType == "NUM":
            value = float(item.MeasuredValueSequence[0].NumericValue)
            found.setdefault(item.ConceptNameCodeSequence[0].CodeMeaning, value)
    return found


def items_of(item: Dataset) -> list[Dataset]:
    """All content items under one, in order."""
    children = list(item.get("ContentSequence", []))
    return [found for child in children for found in (child, *items_of(child))]


def voxels_on_screen(screen: Viewer, images: PhantomStudy, index: int) -> np.ndarray:
    """For each pixel of the canvas the row and column of the image that it shows, not rounded."""
    corners = np.array([[index, 0, 0, 1], [index, 100, 0, 1], [index, 0, 100, 1]], dtype=float)
    at = screen.on_screen((corners @ images.affine.T)[:, :3])
    step = np.stack([at[1] - at[0], at[2] - at[0]], axis=1) / 100  # x and y by row and column
    height, width = screen.canvas().shape[:2]
    y, x = np.mgrid[:height, :width]
    where = np.stack([x + 0.5 - at[0, 0], y + 0.5 - at[0, 1]], axis=-1)
    return np.asarray(where @ np.linalg.inv(step).T)


def inside(mask: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Which pixels of the canvas lie on pixels of the image that are in `mask`."""
    row, column = np.rint(voxels).astype(int).transpose(2, 0, 1)
    known = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    found = np.zeros(known.shape, dtype=bool)
    found[known] = mask[row[known], column[known]]
    return found


def display_colour(segment: Dataset) -> np.ndarray:
    """The recommended colour of a segment (PS3.3 C.10.7.1.1), sRGB 0 to 255."""
    light, a, b = (value / 65535 for value in segment.RecommendedDisplayCIELabValue)
    rgb = lab2rgb(np.array([light * 100, a * 255 - 128, b * 255 - 128]))
    return np.asarray(rgb * 255)


def tinted_in(canvas: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Which pixels are a mixture of grey and `colour`."""
    chroma = canvas - canvas.mean(axis=-1, keepdims=True)
    wanted = colour - colour.mean()
    along = chroma @ wanted / np.linalg.norm(wanted)
    across = np.linalg.norm(chroma, axis=-1)
    return np.asarray((along > 20) & (along > 0.95 * across))
