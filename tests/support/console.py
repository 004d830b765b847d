"""The console script, run in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import cli


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the console script's function in this process; gives exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["sentinode", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code: Any = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()
