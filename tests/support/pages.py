"""A browser without a screen, and a study that is analysed step by step before its eyes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import highdicom as hd
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from cli.phantom import write_phantom_study
from core import clock
from core.domain import Axes, Finding, KeyImage, Measurement, Result, ResultKind
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.modelspec import Code
from support.peers import require_program
from support.validators import unavailable
from support.web import Site, encoded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE_MS = 60_000
LABEL = "FLAIR signal abnormality"
COLOUR = (255, 64, 64)
_LESION = Code(value="52988006", scheme="SCT", meaning="Lesion")
_VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
_ML = Code(value="mL", scheme="UCUM", meaning="milliliter")
_CHROMIUM = (
    "--no-sandbox",  # tests run as root in containers
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves the machine
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a screen."""
    program = require_program("chromium")
    if importlib.util.find_spec("playwright") is None:
        unavailable("playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(_CHROMIUM))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True, eq=False)
class Analysed:
    """A FLAIR phantom with one lesion, and what a job says of it.

    Attributes:
        images: foot to head.
        mask: (slices, rows, columns), the lesion.
        largest: the slice with most of it, from 0.
    """

    images: list[Dataset]
    mask: np.ndarray
    largest: int

    @classmethod
    def phantom(cls, folder: Path, **options: object) -> Analysed:
        study = write_phantom_study(
            folder, series=("FLAIR",), slices=12, shape=(128, 128), **options
        )  # type: ignore[arg-type]
        images = [pydicom.dcmread(path) for path in study.files("FLAIR")]
        return cls(images, study.truth, int(study.truth.sum(axis=(1, 2)).argmax()))

    @property
    def study(self) -> str:
        return str(self.images[0].StudyInstanceUID)

    @property
    def series(self) -> str:
        return str(self.images[0].SeriesInstanceUID)

    def seg(self) -> Dataset:
        """A segmentation of the lesion."""
        algorithm = hd.AlgorithmIdentificationSequence(
            name="phantom", family=codes.DCM.ArtificialIntelligence, version="1"
        )
        segment = hd.seg.SegmentDescription(
            1, LABEL, codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC", algorithm
        )
        return hd.seg.Segmentation(
            self.images, self.mask.astype(np.uint8), "BINARY", [segment],
            f"{self.series}.9", 100, f"{self.series}.9.1", 1, "x", "x", "1", "1",
        )  # fmt: skip

    def finding(self) -> Finding:
        """The lesion as a finding; its diameters are those of its box."""
        rows, columns = np.nonzero(self.mask[self.largest])
        row, column = float(rows.mean()) + 0.5, float(columns.mean()) + 0.5
        along = ((float(columns.min()), row), (float(columns.max()) + 1, row))
        across = ((column, float(rows.min())), (column, float(rows.max()) + 1))
        shown = np.flatnonzero(self.mask.any(axis=(1, 2)))
        return Finding(
            number=1,
            label=LABEL,
            category=_LESION,
            type=_LESION,
            tracking_uid="2.25.1",
            segment=1,
            color=COLOUR,
            slices=(int(shown[0]), int(shown[-1])),
            key_image=KeyImage(str(self.images[self.largest].SOPInstanceUID), None, self.largest),
            axes=Axes(self.largest, along, across),
            probability=0.97,
            measurements=(Measurement(_VOLUME, 12.34, _ML),),
        )

    def arrive(self, here: Site, count: int | None = None) -> None:
        """File the first images, or all."""
        here.add_images(datasets=self.images[:count])

    def job(self, here: Site) -> str:
        """Make its job."""
        with here.ledger.write() as work:
            revision = work.series.get(self.series).revision
            work.series.mark_whole(self.series, revision, "the test says so", clock.now())
            images = tuple(work.series.instances(self.series))
            made = work.jobs.create(
                NewJob(
                    self.study, (self.series,), images, "brain", "mr-flair-glioma", "1.0.1",
                    "cpu", ("pacs",), sender="MR1",
                ),
                clock.now(),
            )  # fmt: skip
        assert made is not None
        return made

    def begin(self, here: Site, job: str) -> None:
        """A worker takes the job."""
        now = clock.now()
        with here.ledger.write() as work:
            work.jobs.to_publish(now, timedelta(seconds=20))
        with here.ledger.write() as work:
            assert work.jobs.claim(job, "w:1", now + timedelta(hours=1), now)

    def finish(self, here: Site, job: str, state: JobState = JobState.DONE, **said: str) -> None:
        """The worker ends the job; a job that is done has a finding and a segmentation."""
        findings, results = [], []
        if state == JobState.DONE:
            seg = self.seg()
            data = encoded(seg)
            key = f"results/{job}/1/seg.dcm"
            here.store.put_bytes(key, data)
            findings = [self.finding()]
            results = [
                Result(
                    ResultKind.SEG,
                    key,
                    "0" * 64,
                    len(data),
                    str(seg.SOPClassUID),
                    str(seg.SOPInstanceUID),
                    str(seg.SeriesInstanceUID),
                )
            ]
        with here.ledger.write() as work:
            work.jobs.finish(
                job, "w:1", state, clock.now(), findings=findings, results=results, **said
            )


class HasPages(Protocol):
    """Whatever runs the pages, at `base`."""

    @property
    def base(self) -> str: ...


class Screen:
    """The image viewer of the study page, as a person sees it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.root = page.locator("[data-viewer]")

    def wait(self, number: int) -> None:
        """Wait until slice `number`, from 1, is drawn."""
        self.page.wait_for_selector(f'[data-viewer][data-ready="{number}"]', timeout=PATIENCE_MS)

    def outlined(self, count: int) -> None:
        """Wait until so many outlines are drawn."""
        self.page.wait_for_selector(f'[data-viewer][data-outlined="{count}"]', timeout=PATIENCE_MS)

    def canvas(self) -> np.ndarray:
        """What is drawn: uint8 (rows, columns, 3)."""
        picture = self.page.locator("[data-canvas]").screenshot()
        return np.asarray(Image.open(BytesIO(picture)).convert("RGB"))

    def corner(self, name: str) -> str:
        return self.page.locator(f'[data-corner="{name}"]').inner_text()

    def pixels(self, rows: int, columns: int, aspect: float = 1.0) -> np.ndarray:
        """The colour in the middle of each pixel of the image, (rows, columns, 3)."""
        shown = self.canvas()
        height, width = shown.shape[:2]
        scale = min(width / columns, height / (rows * aspect))
        left, top = (width - columns * scale) / 2, (height - rows * scale * aspect) / 2
        x = np.clip((left + (np.arange(columns) + 0.5) * scale).astype(int), 0, width - 1)
        y = np.clip((top + (np.arange(rows) + 0.5) * scale * aspect).astype(int), 0, height - 1)
        return shown[np.ix_(y, x)]


def tinted(colours: np.ndarray) -> np.ndarray:
    """Which colours are more red than grey."""
    red, green, blue = (colours[..., part].astype(int) for part in range(3))
    return np.asarray((red - green > 60) & (red - blue > 60))


def sign_in(page: Page, here: HasPages, name: str, password: str) -> None:
    """Fill the form and send it."""
    page.goto(f"{here.base}/sign-in")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in").click()
