"""Digests, and the JSON that they are taken of: blake2b-128 in 32 hex digits throughout."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def new_digest() -> hashlib.blake2b:
    """For what is digested part by part; `hexdigest()` ends it."""
    return hashlib.blake2b(digest_size=16)


def digest_of(data: bytes, *, size: int = 16) -> str:
    """blake2b of `size` bytes, hex; 128 bits of images, checkpoints, vocabularies and of everything in a run."""
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8. ValueError for numbers that are NaN or
    infinite.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def as_stored(value: Any) -> Any:
    """Return the value as it comes back from a JSON file: tuples are lists, keys are text."""
    return json.loads(canonical_json(value))


def readable_json(value: Any) -> bytes:
    """For files that people open, too."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
