"""Passwords, and the secrets that take their place afterwards.

A password is hashed by Argon2id with the library's defaults (RFC 9106, second recommendation).
Cookies and tokens are 256 random bits: nobody guesses one, so a SHA-256 is kept of them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from core.errors import AccountError

TOKEN_PREFIX = "snt_"  # noqa: S105 - how a token begins, so that one is found where it leaked
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")
_LONGEST = 512  # Argon2 takes more; nobody types more
_hasher = PasswordHasher()
# Each hash takes 64 MiB for a moment: more at once would be a way to fill the memory.
_at_once = threading.BoundedSemaphore(2)
# Looked at when nobody has the name, so that the answer takes as long. Of a random password.
_dummy: list[str] = []


def account_name(text: str) -> str:
    """A name as it is kept.

    Raises:
        AccountError: it cannot be one.
    """
    name = text.strip().lower()
    if not _NAME.fullmatch(name):
        raise AccountError(
            "a name has 1 to 63 letters, digits and . _ @ -, and begins with a letter or digit"
        )
    return name


def hash_password(password: str, least: int) -> str:
    """The hash of a new password.

    Raises:
        AccountError: it is shorter than `least` characters, or too long.
    """
    if len(password) < least:
        raise AccountError(f"a password has at least {least} characters")
    if len(password) > _LONGEST:
        raise AccountError(f"a password has at most {_LONGEST} characters")
    with _at_once:
        return _hasher.hash(password)


def is_password(password_hash: str | None, password: str) -> bool:
    """Whether it is the password; takes as long when there is no hash to compare with."""
    if len(password) > _LONGEST:
        return False
    with _at_once:
        if password_hash is None and not _dummy:
            _dummy.append(_hasher.hash(secrets.token_urlsafe()))
        try:
            return _hasher.verify(password_hash or _dummy[0], password) and bool(password_hash)
        except (VerificationError, InvalidHashError):
            return False


def is_outdated(password_hash: str) -> bool:
    """Whether the hash was made with weaker parameters than those of today."""
    return _hasher.check_needs_rehash(password_hash)


def new_secret() -> str:
    """256 random bits, as text."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def form_token(secret: str) -> str:
    """What forms of a session must carry: derived from its cookie, which no other site can read."""
    return hmac.new(secret.encode(), b"form", hashlib.sha256).hexdigest()
