"""The viewer OHIF as a website: fetched once, served on loopback with Orthanc's DICOMweb.

OHIF comes prebuilt from its npm package, into `.cache/ohif`. One small server hands out its files
and passes /dicom-web on to Orthanc, so that everything has one origin.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from support.peers import Orthanc
from support.validators import unavailable

OHIF_VERSION = "3.12.0"
# Subresource Integrity of the package, as the npm registry states it.
OHIF_SHA512 = (
    "D+SyPEOhW7E+P+ZfzFO1C3n8qwTfKSXExNEt2DPB5QHoLjSnUVTqEE+xaWX2B9p53boJfKWEM4b4SIVmz0qmOA=="
)
CACHE = Path(__file__).parents[2] / ".cache" / "ohif"
# OHIF's default configuration, reduced to one source of images: the server that it came from.
_CONFIG = {
    "name": "sentinode-tests",
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "maxNumRequests": {"interaction": 20, "thumbnail": 5, "prefetch": 10},
    "defaultDataSourceName": "orthanc",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "orthanc",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "wadoUriRoot": "/dicom-web/wado",
                "qidoSupportsIncludeField": False,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
            },
        }
    ],
}


def ohif() -> Path:
    """The folder with OHIF's prebuilt files, fetched the first time that it is asked for."""
    folder = CACHE / OHIF_VERSION
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        unavailable("npm, which fetches the viewer, is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")  # nobody commits 200 MB by mistake
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        command = [npm, "pack", f"@ohif/app@{OHIF_VERSION}", "--pack-destination", scratch]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not archives:
            unavailable(f"npm could not fetch the viewer: {done.stderr[-300:]}")
        packed = archives[0].read_bytes()
        if base64.b64encode(hashlib.sha512(packed).digest()).decode() != OHIF_SHA512:
            pytest.fail(f"the package of OHIF {OHIF_VERSION} is not the one that we know")
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(scratch, filter="data")
        (Path(scratch) / "package" / "dist").rename(folder)
    return folder


class _Handler(SimpleHTTPRequestHandler):
    """OHIF's files, and /dicom-web from Orthanc."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, orthanc_port: int, directory: str) -> None:
        self._orthanc_port = orthanc_port
        super().__init__(*arguments, directory=directory)

    def end_headers(self) -> None:
        # OHIF shares memory between threads; browsers allow that only to an isolated page
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/dicom-web/"):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", f"window.config = {json.dumps(_CONFIG)};".encode())
        else:
            if not Path(self.translate_path(self.path)).is_file():
                self.path = "/index.html"  # a page of the application itself
            super().do_GET()

    def _pass_on(self) -> None:
        headers = {name: self.headers[name] for name in ("Accept", "Host") if name in self.headers}
        link = http.client.HTTPConnection("127.0.0.1", self._orthanc_port, timeout=60)
        link.request("GET", self.path, headers=headers)
        answer = link.getresponse()
        self._answer(answer.status, answer.getheader("Content-Type", ""), answer.read())
        link.close()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A browser that closes drops its connections."""


@contextmanager
def website(files: Path, server: Orthanc) -> Iterator[str]:
    """Serve OHIF and the images in `server` on loopback; gives the address."""
    handler = partial(_Handler, orthanc_port=server.http_port, directory=str(files))
    with _Server(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{site.server_port}"
        finally:
            site.shutdown()
