"""The temporary folder of an export's part, and what a killed export left there and in its target."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from labeler import owners, storage
from labeler.digests import digest_of


def make_folder(target: str) -> Path:
    """Return a new local folder for a part of the export to `target`."""
    return Path(tempfile.mkdtemp(prefix=f"{_prefix(target)}{owners.owner()}-"))


def remove_leftovers(target: str) -> None:
    """Remove the temporary files of exports to `target` whose processes were killed."""
    storage.remove_abandoned(target)
    name = re.compile(rf"{re.escape(_prefix(target))}({owners.PATTERN})-\w+")
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix(target)}*"):
        found = name.fullmatch(folder.name)
        if found and owners.is_gone(found[1]) and _is_own_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _prefix(target: str) -> str:
    digest = digest_of(storage.absolute_uri(target).encode("utf-8", "surrogateescape"), size=8)
    return f"labeler-export-{digest}-"


def _is_own_folder(folder: Path) -> bool:
    """Whether it is a folder, not a link, and of this user: others write to the system's temporary folder, too."""
    with suppress(OSError):
        return folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink()
    return False
