"""Images that must not be labeled: deletion requests, kept beside a run as digests of what names an image.

A list of names would itself be what somebody asked to have deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.file_names import comparable
from labeler.runs import layout
from labeler.runs.erasure.name_files import read_names
from labeler.runs.manifest import Run, open_run
from labeler.shards import Unit

_NAME = re.compile(r"[0-9a-f]{32}")
_LIST = re.compile(rb"(?:[0-9a-f]{32}\s+)*")
_ALIKE = "alike\0"  # no file name has a zero byte
_DIGEST = np.dtype("S16")  # all are 16 bytes long: numpy drops zeros at the end, which then tells none from another
Digests = npt.NDArray[np.bytes_]


def name_digest(name: str) -> str:
    """Return what stands for a file name in this very spelling, or for an image's digest, in a list."""
    return digest_of(name.encode("utf-8", "surrogateescape"))


def alike_digest(name: str) -> str:
    """Return what stands for a file name in any spelling; lists of former versions have none."""
    return name_digest(_ALIKE + comparable(name))


def _array(digests: Iterable[str]) -> Digests:
    return np.frombuffer(bytes.fromhex("".join(digests)), _DIGEST)


@dataclass(frozen=True, eq=False)
class Excluded:
    """A set of images, by file name as exports write it or by digest of their bytes; 16 bytes a digest.

    Attributes:
        digests: (n,) sorted, each once: `name_digest` of each name, and `alike_digest` of those that are excluded in
            any spelling. Read-only where the object is shared.
    """

    digests: Digests = field(default_factory=lambda: np.empty(0, _DIGEST))

    @staticmethod
    def of(names: Iterable[str]) -> Excluded:
        """File names, in any spelling, or digests of images."""
        names = list(names)
        spelled = (name for name in names if not _NAME.fullmatch(name))
        return Excluded.of_digests([*map(name_digest, names), *map(alike_digest, spelled)])

    @staticmethod
    def of_digests(digests: Iterable[str]) -> Excluded:
        """Return what these digests stand for, in any order."""
        return Excluded(np.unique(_array(digests)))

    def __len__(self) -> int:
        return len(self.digests)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Excluded) and np.array_equal(self.digests, other.digests)

    def __or__(self, other: Excluded) -> Excluded:
        return Excluded(np.union1d(self.digests, other.digests))

    def __sub__(self, other: Excluded) -> Excluded:
        return Excluded(np.setdiff1d(self.digests, other.digests, assume_unique=True))

    def to_bytes(self) -> bytes:
        """Return a list as it is stored: a digest a line."""
        text = self.digests.tobytes().hex()
        return "".join(f"{text[i : i + 32]}\n" for i in range(0, len(text), 32)).encode()

    def _have(self, digests: Iterable[str]) -> npt.NDArray[np.bool_]:
        """(n,) which of these digests are in the set."""
        asked = _array(digests)
        if not len(self):
            return np.zeros(len(asked), np.bool_)
        places = np.minimum(np.searchsorted(self.digests, asked), len(self) - 1)
        found: npt.NDArray[np.bool_] = self.digests[places] == asked
        return found

    def has(self, file_name: str) -> bool:
        """Return whether the name is excluded, in its own spelling or in any."""
        return bool(self.have([file_name])[0])

    def have(self, file_names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return (names,) which are excluded, each in its own spelling or in any."""
        return self._have(map(name_digest, file_names)) | self._have(map(alike_digest, file_names))

    def of_rows(self, table: pa.Table, file_name_prefix: str) -> npt.NDArray[np.bool_]:
        """Return (rows,) which rows are excluded and still have more than their place.

        Args:
            table: rows of one shard, with image_key, digest and status.
        """
        if not len(self):
            return np.zeros(len(table), np.bool_)
        keys, digests, statuses = (table[name].to_pylist() for name in ("image_key", "digest", "status"))
        by_bytes = self._have(name_digest(digest or "") for digest in digests)
        found: npt.NDArray[np.bool_] = by_bytes & np.array([digest is not None for digest in digests], np.bool_)
        found |= self.have([file_name_prefix + key for key in keys])
        return found & np.array([status != "removed" for status in statuses], np.bool_)

    def hide(self, table: pa.Table, file_name_prefix: str) -> pa.Table:
        """Return the rows with the status of those that are excluded as if they were removed already."""
        excluded = self.of_rows(table, file_name_prefix)
        if not excluded.any():
            return table
        statuses = pc.if_else(pa.array(excluded), "removed", table["status"])
        return table.set_column(table.schema.get_field_index("status"), "status", statuses)

    def without(self, unit: Unit, file_name_prefix: str) -> Unit:
        """The unit; of its excluded images only their places are left."""
        if not len(self):
            return unit
        by_bytes = self._have(name_digest(digest_of(item.data or b"")) for item in unit.items)
        by_name = self.have([file_name_prefix + item.key for item in unit.items])
        return replace(
            unit,
            items=tuple(
                replace(item, removed=True, data=None, error=None, offset=None, length=None, kept={})
                if named or (same_bytes and item.data is not None)
                else item
                for item, named, same_bytes in zip(unit.items, by_name, by_bytes, strict=True)
            ),
        )


def read_excluded(run: Run) -> Excluded:
    """All lists of a run; a derived run has those of the run it derives from."""
    found = Excluded()
    for info in storage.list_objects(run.root.path(layout.EXCLUDED_FOLDER)):
        data = storage.read_bytes(info.uri)
        if not _LIST.fullmatch(data):
            raise Refused(f"{storage.redact(info.uri)} is not a list that labeler forget wrote; restore it")
        found |= Excluded(np.unique(np.frombuffer(bytes.fromhex(data.decode()), _DIGEST)))
    return found


def write_excluded(run: Run, excluded: Excluded) -> None:
    """Add a list to a run, of what none of its lists has yet."""
    if len(excluded) and len(fresh := excluded - read_excluded(run)):
        data = fresh.to_bytes()
        storage.put(run.root.path(layout.excluded_file(digest_of(data))), data)


def load_excluded(uris: Iterable[str]) -> Excluded:
    """Return what runs, and files of names, exclude.

    Raises:
        Refused: a URI is not a run or a file.
    """
    found = Excluded()
    for uri in uris:
        run = open_run(uri)
        found |= read_excluded(run) if run is not None else Excluded.of(read_names(uri))
    return found
