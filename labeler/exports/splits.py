"""Splits: which images are for training and which for validation; the same image is always on the same side."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.digests import digest_of
from labeler.errors import Refused

ALL = "all"  # the name of the one split when nothing is split
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Splits:
    """Names and the share of images each gets; shares add up to 1."""

    shares: tuple[tuple[str, float], ...] = ((ALL, 1.0),)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.shares)

    def of(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
        """(n,) position of each key's split: its place in [0, 1) falls into one split's part of it.

        It depends on nothing but the key and the shares, so it stays when a run grows or a threshold changes.
        """
        bounds = np.cumsum([share for _, share in self.shares])[:-1]
        return np.searchsorted(bounds, keys / 2.0**64, side="right").astype(np.int8)


def parse_splits(text: str) -> Splits:
    """`train=0.9,val=0.1`. Raises Refused."""
    shares = []
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not _NAME.fullmatch(name) or not 0 < share <= 1:
            raise Refused(f"--split is train=0.9,val=0.1: names with shares that add up to 1; got {text!r}")
        shares.append((name, share))
    names = [name for name, _ in shares]
    if ALL in names:
        raise Refused(f"--split {text!r}: {ALL!r} means every split to `datasets`; choose another name")
    if len(set(names)) < len(names) or abs(sum(share for _, share in shares) - 1) > 1e-6:
        raise Refused(f"--split {text!r}: the names must differ and the shares add up to 1")
    return Splits(tuple(shares))


def key_of(text: str) -> int:
    """A digest or a group's name as 64 evenly spread bits."""
    return int(digest_of(text.encode(), size=8), 16)
