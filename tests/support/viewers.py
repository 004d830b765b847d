"""A viewer as hospitals have it: OHIF in a headless Chromium, before Orthanc's DICOMweb.

See `viewers_site` for where OHIF itself comes from.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from support.peers import Orthanc, free_port, require_program, wait_for
from support.validators import unavailable
from support.viewers_site import ohif, website

if TYPE_CHECKING:
    from playwright.sync_api import Page

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# Drawing in software is slow, more so on a busy machine.
PATIENCE_MS = 60_000

_CHROMIUM = (
    "--no-sandbox",  # tests run as root in containers
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves the machine
)
_VIEWPORT = "cornerstone.getEnabledElements()[0].viewport"


@contextmanager
def dicomweb(folder: Path) -> Iterator[Orthanc]:
    """Run Orthanc with its DICOMweb plugin on loopback, its data in `folder`."""
    program = require_program("Orthanc")
    if not DICOMWEB_PLUGIN.exists():
        unavailable("Orthanc's DICOMweb plugin is not installed")
    server = Orthanc("ORTHANC", free_port(), free_port())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "orthanc.json"
    config = {
        "StorageDirectory": str(folder / "db"),
        "DicomServerEnabled": False,
        "HttpPort": server.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True},
    }
    path.write_text(json.dumps(config))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=log)
    try:
        wait_for(lambda: _ready(server), 30, "Orthanc is ready")
        yield server
    finally:
        process.terminate()
        process.wait(20)


def store(server: Orthanc, paths: list[Path]) -> None:
    """Put files into Orthanc by its REST interface."""
    link = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    for path in paths:
        link.request("POST", "/instances", path.read_bytes())
        answer = link.getresponse()
        body = answer.read()
        assert answer.status == HTTPStatus.OK, f"Orthanc refuses {path.name}: {body!r}"
    link.close()


class Viewer:
    """OHIF with one study open."""

    def __init__(self, page: Page, screenshots: Path) -> None:
        self.page, self._screenshots = page, screenshots

    def text(self) -> str:
        """All text in the page, what is written over the images included."""
        return str(self.page.evaluate("document.body.textContent"))

    def wait_for_text(self, text: str) -> None:
        """Wait until the page says it somewhere."""
        self.page.wait_for_function(
            "text => document.body.textContent.includes(text)", arg=text, timeout=PATIENCE_MS
        )

    def screenshot(self, name: str) -> Path:
        """Keep what the screen shows."""
        path = self._screenshots / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def open_series(self, number: int) -> None:
        """Open a series by its number, as a double click in the list does."""
        self.page.get_by_text(f"S:{number}", exact=True).dblclick(timeout=PATIENCE_MS)

    def open_segmentation(self, number: int) -> None:
        """Load the SEG series over its images and list its segments."""
        self.open_series(number)
        self.page.get_by_text("Yes", exact=True).click(timeout=PATIENCE_MS)
        self.page.locator('[data-cy="panelSegmentation-btn"]').click(timeout=PATIENCE_MS)

    def slice_to(self, sop_instance_uid: str) -> None:
        """Show one image of the stack."""
        self.page.evaluate(
            f"""uid => {{
                const at = {_VIEWPORT}.getImageIds().findIndex(id => id.includes(`/${{uid}}/`));
                return {_VIEWPORT}.setImageIdIndex(at);
            }}""",
            sop_instance_uid,
        )
        self.page.wait_for_function(
            f"uid => {_VIEWPORT}.getCurrentImageId().includes(`/${{uid}}/`)",
            arg=sop_instance_uid,
            timeout=PATIENCE_MS,
        )

    def on_screen(self, points: np.ndarray) -> np.ndarray:
        """Where patient coordinates, (n, 3) LPS mm, are shown: (n, 2) pixels of `canvas`."""
        found = self.page.evaluate(
            f"points => points.map(p => Array.from({_VIEWPORT}.worldToCanvas(p)))",
            points.tolist(),
        )
        return np.array(found)

    def canvas(self) -> np.ndarray:
        """What the viewport shows: uint8 (rows, columns, 3)."""
        picture = self.page.locator(".cornerstone-canvas").first.screenshot()
        return np.asarray(Image.open(BytesIO(picture)).convert("RGB"))


@contextmanager
def viewer(server: Orthanc, study_uid: str, screenshots: Path) -> Iterator[Viewer]:
    """Open a study that lies in `server` in OHIF."""
    chromium = require_program("chromium")
    if importlib.util.find_spec("playwright") is None:
        unavailable("playwright is not installed")
    from playwright.sync_api import sync_playwright

    screenshots.mkdir(parents=True, exist_ok=True)
    with website(ohif(), server) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(_CHROMIUM))
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{address}/viewer?StudyInstanceUIDs={study_uid}")
        page.get_by_text("Skip all").click(timeout=PATIENCE_MS)  # its guided tour
        try:
            yield Viewer(page, screenshots)
        except BaseException:
            page.screenshot(path=screenshots / "failed.png")
            raise
        finally:
            browser.close()


def _ready(server: Orthanc) -> bool:
    try:
        return bool(server.get("/system"))
    except OSError:
        return False
