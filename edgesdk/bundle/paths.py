"""Which paths a bundle may hold: relative, legal on every file system, inside the folder."""

from __future__ import annotations

import re
from collections.abc import Iterable

MANIFEST = "manifest.json"
MANIFEST_SHA256 = "manifest.sha256"
"""The digest of `manifest.json` as `sha256sum` writes it; a file cannot hold its own."""
RESERVED = frozenset({MANIFEST, MANIFEST_SHA256})

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=~-]*")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 200
"""Leaves room for a folder in front within the 260 characters that Windows takes by default."""

LEGAL = (
    "a relative path of parts joined by '/', each of letters, digits and _ . + @ = ~ -, starting "
    f"with a letter, digit or _, not ending in '.', at most {_LONGEST} characters in all"
)


def path_problem(path: str) -> str | None:
    """Why a path cannot be in a bundle, or None when it can."""
    if len(path) > _LONGEST:
        return f"is {len(path)} characters long; at most {_LONGEST}"
    for part in path.split("/"):
        if not _PART.fullmatch(part) or part.endswith(".") or _DEVICES.fullmatch(part):
            return f"must be {LEGAL}"
    return None


def clash(paths: Iterable[str]) -> str | None:
    """The first path that some file system cannot hold beside the others, or None.

    Two paths clash when they differ at most in case, or when one is a folder of the other.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        low = path.lower()
        above = {low[:at] for at, char in enumerate(low) if char == "/"}
        if low in seen or low in folders or above & seen:
            return path
        seen.add(low)
        folders |= above
    return None
