"""Fetch a checkpoint's files from object storage, once per node, into labeler's cache folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labeler import storage
from labeler.checkpoints.files import CONFIG, IMAGE_PROCESSOR, TOKENIZER
from labeler.digests import digest_of
from labeler.errors import Refused, StorageError

_STREAM_BYTES = 8 * 2**20
_ADVICE = "set LABELER_CACHE to a folder that can be written and locked"


def cache_folder() -> Path:
    """Return where checkpoints from object storage are kept: LABELER_CACHE, or `labeler` in the user's cache folder.

    Raises:
        Refused: if none of them is known.
    """
    chosen = os.environ.get("LABELER_CACHE")
    try:
        if chosen:
            return Path(storage.expand_home(chosen))
        return Path(storage.expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "labeler"
    except Refused:
        raise Refused(
            f"no cache folder for checkpoints: this user has no home folder (HOME is not set); {_ADVICE}"
        ) from None


def fetch_from_storage(uri: str, shown: str, weights: bool) -> Path:
    """Return the folder's files, in a cache folder named after their URI, sizes and ETags: a changed checkpoint is
    another.
    """
    try:
        objects = sorted(_wanted_objects(uri, weights), key=lambda found: found.uri)
        if not objects:
            raise Refused(f"no checkpoint at {shown}: the folder has no {CONFIG} and no weights")
        identity = json.dumps([uri, weights, [(found.uri, found.size, found.etag) for found in objects]])
        cached = cache_folder() / "checkpoints" / digest_of(identity.encode())
        if cached.is_dir():  # whole, or it would not have its name; a cache that can only be read is enough
            return cached
        with _locked(cached.with_suffix(".lock")):
            if not cached.is_dir():
                _download(objects, cached)
        return cached
    except StorageError as error:
        raise Refused(f"checkpoint {shown} could not be fetched: {error}") from error
    except OSError as error:
        raise Refused(f"checkpoint {shown} could not be stored under {cache_folder()}: {error}; {_ADVICE}") from error


def _wanted_objects(uri: str, weights: bool) -> Iterator[storage.ObjectInfo]:
    names = (CONFIG, *IMAGE_PROCESSOR, *TOKENIZER)
    for found in storage.list_objects(uri):
        name = storage.basename(found.uri)
        if storage.join(uri, name) != found.uri:
            continue  # a subfolder's file: other formats, training states
        if name in names or (weights and name.endswith((".safetensors", ".safetensors.index.json"))):
            yield found


def _download(objects: list[storage.ObjectInfo], cached: Path) -> None:
    """All or nothing: a folder beside the cache folder is filled and renamed."""
    for left_over in cached.parent.glob(f"{cached.name}*.partial"):  # of a killed process: its lock is held here now
        shutil.rmtree(left_over, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=cached.name, suffix=".partial", dir=cached.parent))
    try:
        for found in objects:
            stream = storage.open_stream(found.uri, size=found.size, etag=found.etag)
            try:
                with (partial / storage.basename(found.uri)).open("wb") as file:
                    while piece := stream.read(_STREAM_BYTES):
                        file.write(piece)
            finally:
                stream.close()
        partial.rename(cached)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this node; the kernel releases it if the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK, 0o666)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
