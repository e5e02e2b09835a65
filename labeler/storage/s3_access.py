"""How S3 buckets of other people are read: unsigned, or with the reader paying. Set per prefix, in every process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class S3Access:
    """Options for reads below a prefix. Writes are always signed.

    Attributes:
        unsigned: send no credentials, as public buckets take it.
        requester_pays: agree to pay for requests and traffic.
    """

    unsigned: bool = False
    requester_pays: bool = False


OWN = S3Access()
_by_prefix: dict[str, S3Access] = {}  # of this process; prefixes are "", "bucket" or "bucket/folder"

_NONE: Mapping[str, S3Access] = {}


@dataclass(frozen=True)
class S3Rules:
    """S3Access by URI prefix; the longest prefix decides. Picklable, so that workers get it with their settings."""

    rules: tuple[tuple[str, S3Access], ...] = ()

    def apply(self) -> None:
        """Add them to the rules of this process, in the place of those for the same prefixes."""
        for uri, access in self.rules:
            prefix = _prefix(uri)
            if prefix is not None:
                _by_prefix[prefix] = access


NO_S3_RULES = S3Rules()


def input_rules(
    uris: Iterable[str],
    options: Mapping[str, bool],
    *,
    own: Iterable[str],
    checkpoints: Mapping[str, S3Access] = _NONE,
) -> S3Rules:
    """Rules for reading an input with `options`, the fields of S3Access.

    They hold for the buckets of the input and, since a column may name images in any bucket, for all buckets without a
    rule of their own.

    Args:
        own: URIs of the job's other objects: its output, vocabulary and the like.
        checkpoints: by URI.
    """
    access = S3Access(**options)
    buckets = [f"s3://{prefix.partition('/')[0]}" for uri in uris if (prefix := _prefix(uri))]
    everywhere = [(uri, access) for uri in ("s3://", *buckets)]
    return S3Rules((*everywhere, *((uri, OWN) for uri in own), *checkpoints.items()))


def access_to(bucket: str, key: str) -> S3Access:
    """Return the access that this process was told to use for reading an object, or for listing a prefix."""
    prefix = f"{bucket}/{key}".rstrip("/")
    while prefix:
        if prefix in _by_prefix:
            return _by_prefix[prefix]
        prefix = prefix.rpartition("/")[0]
    return _by_prefix.get("", OWN)


def _prefix(uri: str) -> str | None:
    """Return the bucket and folder of an S3 URI; None for any other."""
    scheme, separator, rest = uri.partition("://")
    return rest.strip("/") if separator and scheme.lower() in ("s3", "s3a") else None
