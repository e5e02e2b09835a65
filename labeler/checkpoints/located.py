"""Where a checkpoint lies: a Hub ID, a local folder or an object-storage URL becomes a folder on this machine."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from labeler import storage
from labeler.checkpoints.hub import fetch_from_hub
from labeler.checkpoints.stored import fetch_from_storage
from labeler.errors import Refused


@dataclass(frozen=True)
class Located:
    """A folder on this machine that should hold a checkpoint; nothing in it was looked at yet.

    Attributes:
        name: what the user called it, without secrets.
        revision: the hub's commit, or None for a folder or URL.
    """

    folder: Path
    name: str
    revision: str | None


def locate(name: str | Path, *, revision: str | None = None, weights: bool = True, section: str = "model") -> Located:
    """Fetch a checkpoint's files if they are not here yet.

    Args:
        name: "org/name" on the Hugging Face hub (HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are honored), a local folder
            (used in place), or a URL of a folder on object storage (fetched once per node into `cache_folder()`).
        revision: branch, tag or commit, for Hub IDs only.
        weights: False leaves them where they are.
        section: of the config, for messages.

    Raises:
        Refused: in one line, whatever is wrong with the name, the network or the permission.
    """
    name = str(name)
    shown = storage.redact(name)
    is_url = "://" in name and not name.startswith("file://")
    local = Path(storage.expand_home(name.removeprefix("file://")))
    if revision is not None and (is_url or local.is_dir()):
        raise Refused(f"{section}.revision is for Hub IDs only, and {shown} is not one; leave it out")
    if is_url:
        return Located(fetch_from_storage(name, shown, weights), shown, None)
    if local.is_dir():
        _refuse_special_files(local, shown)
        return Located(local, shown, None)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        where = "" if local.is_absolute() else f" (that is {storage.redact(str(local.absolute()))})"
        raise Refused(
            f"{section}: checkpoint folder {shown}{where} does not exist on this machine; give a folder that is "
            "here, a Hugging Face Hub ID (org/name) or a URI (s3://bucket/folder)"
        )
    folder = fetch_from_hub(name, revision, weights, section)
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else revision
    return Located(folder, name, commit)


def model_uri(name: str) -> str:
    """A checkpoint's name as every node and every working directory understands it: a local folder absolute."""
    return storage.absolute_uri(name) if Path(name).exists() else name


def _refuse_special_files(folder: Path, shown: str) -> None:
    """Other libraries open the files of a checkpoint, too, and would wait for a pipe."""
    try:
        for entry in os.scandir(folder):
            with suppress(OSError):
                mode = entry.stat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise Refused(f"checkpoint {shown}: {entry.name} is not a regular file; replace or remove it")
    except OSError as error:
        raise Refused(f"checkpoint {shown} cannot be read: {error.strerror}; check its permissions") from None
