"""Images that must not be labeled: deletion requests, kept beside a run as digests of what names an image.

A list of names would itself be what somebody asked to have deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.file_names import comparable
from labeler.runs import layout
from labeler.runs.manifest import Run, open_run
from labeler.shards import Unit

_NAME = re.compile(r"[0-9a-f]{32}")


_ALIKE = "alike\0"  # no file name has a zero byte


def name_digest(name: str) -> str:
    """What stands for a file name in this very spelling, or for an image's digest, in a list."""
    return digest_of(name.encode("utf-8", "surrogateescape"))


def alike_digest(name: str) -> str:
    """What stands for a file name in any spelling; lists of former versions have none."""
    return name_digest(_ALIKE + comparable(name))


@dataclass(frozen=True)
class Excluded:
    """A set of images, by file name as exports write it or by digest of their bytes.

    Attributes:
        names: `name_digest` of each, and `alike_digest` of those that are excluded in any spelling.
    """

    names: frozenset[str] = frozenset()

    @staticmethod
    def of(names: Iterable[str]) -> Excluded:
        """File names, in any spelling, or digests of images."""
        names = list(names)
        spelled = (name for name in names if not _NAME.fullmatch(name))
        return Excluded(frozenset(map(name_digest, names)) | frozenset(map(alike_digest, spelled)))

    def has(self, file_name: str) -> bool:
        """Return whether the name is excluded, in its own spelling or in any."""
        return name_digest(file_name) in self.names or alike_digest(file_name) in self.names

    def of_rows(self, table: pa.Table, file_name_prefix: str) -> npt.NDArray[np.bool_]:
        """Return (rows,) which rows are excluded and still have more than their place.

        Args:
            table: rows of one shard, with image_key, digest and status.
        """
        found = np.zeros(len(table), np.bool_)
        if self.names:
            rows = zip(*(table[name].to_pylist() for name in ("image_key", "digest", "status")), strict=True)
            for place, (key, bytes_digest, status) in enumerate(rows):
                by_bytes = bytes_digest is not None and name_digest(bytes_digest) in self.names
                found[place] = status != "removed" and (by_bytes or self.has(file_name_prefix + key))
        return found

    def hide(self, table: pa.Table, file_name_prefix: str) -> pa.Table:
        """Return the rows with the status of those that are excluded as if they were removed already."""
        excluded = self.of_rows(table, file_name_prefix)
        if not excluded.any():
            return table
        statuses = pc.if_else(pa.array(excluded), "removed", table["status"])
        return table.set_column(table.schema.get_field_index("status"), "status", statuses)

    def __or__(self, other: Excluded) -> Excluded:
        return Excluded(self.names | other.names)

    def without(self, unit: Unit, file_name_prefix: str) -> Unit:
        """The unit; of its excluded images only their places are left."""
        if not self.names:
            return unit

        def excluded(key: str, data: bytes | None) -> bool:
            by_bytes = data is not None and name_digest(digest_of(data)) in self.names
            return by_bytes or self.has(file_name_prefix + key)

        return replace(
            unit,
            items=tuple(
                replace(item, removed=True, data=None, error=None, offset=None, length=None, kept={})
                if excluded(item.key, item.data)
                else item
                for item in unit.items
            ),
        )


def read_excluded(run: Run) -> Excluded:
    """All lists of a run; a derived run has those of the run it derives from."""
    found = Excluded()
    for info in storage.list_objects(run.root.path(layout.EXCLUDED_FOLDER)):
        lines = storage.read_bytes(info.uri).decode("ascii", "replace").split()
        if not all(_NAME.fullmatch(line) for line in lines):
            raise Refused(f"{storage.redact(info.uri)} is no list that labeler forget wrote; restore it")
        found |= Excluded(frozenset(lines))
    return found


def write_excluded(run: Run, excluded: Excluded) -> None:
    """Add a list to a run, of what none of its lists has yet."""
    if fresh := excluded.names - read_excluded(run).names:
        data = "".join(f"{name}\n" for name in sorted(fresh)).encode()
        storage.put(run.root.path(layout.excluded_file(digest_of(data))), data)


def load_excluded(uris: Iterable[str]) -> Excluded:
    """What runs, and files of names, exclude.

    Raises:
        Refused: a URI is neither a run nor a file.
    """
    found = Excluded()
    for uri in uris:
        run = open_run(uri)
        found |= read_excluded(run) if run is not None else Excluded.of(read_names(uri))
    return found


def read_names(uri: str) -> list[str]:
    """The lines of a file: file names or digests of images.

    Raises:
        Refused: it is not there, is no UTF-8 text, or has no line.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except storage.StorageError as error:
        raise Refused(f"the list of images to forget cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise Refused(f"{storage.redact(uri)} is no UTF-8 text; give a file with an image a line") from None
    lines = list(dict.fromkeys(line.rstrip("\r") for line in text.split("\n") if line.strip()))
    if not lines:
        raise Refused(f"{storage.redact(uri)} has no line; give a file with an image a line")
    return lines
