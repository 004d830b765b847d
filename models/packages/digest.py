"""A package's hash: what an administrator allows when a package wants to run code."""

from __future__ import annotations

import hashlib
from pathlib import Path

from core.errors import ModelSpecError
from models.weights import sha256


def package_hash(folder: Path) -> str:
    """SHA-256 over names and contents of all files of a package, in hexadecimal.

    One changed byte in any of its files makes it another package.

    Raises:
        ModelSpecError: a link, or something that is no plain file.
    """
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ModelSpecError(f"{path} is a link: a package holds its own files")
        if path.is_dir():
            continue
        if not path.is_file():
            raise ModelSpecError(f"{path} is no plain file")
        name = path.relative_to(folder).as_posix()
        lines.append(f"{sha256(path)}  {len(name)} {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
