"""Other people's programs that judge and read what we write.

A missing program skips a test here and fails it in CI (see .ci/run).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support.peers import require_program


def unavailable(what: str) -> NoReturn:
    """End the test: skipped here, failed in CI."""
    message = f"{what} (see .ci/run)"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def dciodvfy(path: Path) -> list[str]:
    """The errors, not the warnings, that dicom3tools finds in one object by its IOD.

    Raises:
        AssertionError: it could not read the file, or does not know the IOD; it says neither
            with "Error" at the line's start.
    """
    done = _run("dciodvfy", "-new", str(path))
    lines = [line.strip() for line in done.stderr.splitlines()]
    errors = [line for line in lines if line.startswith("Error")]
    # it names the IOD when it could judge: "CTImage", "EnhancedMRImage" …
    named = [line for line in lines if line and not line.startswith(("Error", "Warning", "("))]
    assert errors or named, f"dciodvfy judged nothing: {done.stderr[-400:]}"
    return errors


def dcentvfy(paths: Sequence[Path]) -> list[str]:
    """The errors that dicom3tools finds between objects: one patient, one study, one series."""
    done = _run("dcentvfy", *map(str, paths))
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def tid1500reader(path: Path) -> dict[str, Any]:
    """What dcmqi reads in a TID 1500 report.

    Raises:
        AssertionError: it cannot read it.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        done = _run("tid1500reader", "--inputDICOM", str(path), "--outputMetadata", str(out))
        assert done.returncode == 0 and out.is_file(), done.stdout + done.stderr
        read: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return read


def dsrdump(path: Path) -> str:
    """What DCMTK prints of a structured report.

    Raises:
        AssertionError: it cannot read it.
    """
    program = require_program("dsrdump", "/usr/bin")
    done = subprocess.run(
        [program, str(path)], capture_output=True, text=True, errors="replace", timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require_program(name), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )
