"""Plan image files as they are listed: nothing is held in memory for each of tens of millions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeler.shards import skipped
from labeler.shards.groups import FILES, cut_groups
from labeler.shards.look_inside import MOST
from labeler.shards.names import has_extension, is_compressed_tar, is_hidden, kind_of
from labeler.shards.repeats import Repeats
from labeler.shards.units import Shard
from labeler.storage import ObjectInfo

# Names that are images and not hidden for sure; `kind_of` and `is_hidden` judge the others one by one.
_PLAIN = r"^([^._/][^/]*/)*[^._/?][^/?]*\.(?i:jpg|jpeg|png|webp)$"
_AT_ONCE = 4096
_UNJUDGED, _IMAGE, _NO_IMAGE = range(3)


@dataclass
class StreamedFiles:
    """Contents of a stream of files.

    Attributes:
        groups: of its image files.
        images: how many those are, more than a limit takes included.
        known: how many more there are, which an earlier plan has.
        others: tars and Parquet files.
        nameless: the first files without an extension, which were not taken.
        beside: counts by extension of what is not part of the input.
    """

    groups: list[Shard] = field(default_factory=list)
    images: int = 0
    known: int = 0
    others: list[ObjectInfo] = field(default_factory=list)
    nameless: list[ObjectInfo] = field(default_factory=list)
    beside: Counter[str] = field(default_factory=Counter)


def tables_of(listed: Iterable[ObjectInfo]) -> Iterator[pa.Table]:
    """Yield objects of a listing as tables of FILES."""
    objects = iter(listed)
    while some := list(islice(objects, _AT_ONCE)):
        columns = [[each.uri for each in some], [each.size for each in some], [each.etag for each in some]]
        yield pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, FILES, strict=True)], schema=FILES)


def plan_files(
    read: Callable[[], Iterator[pa.Table]],
    roots: Sequence[str],
    root: str,
    images_per_group: int,
    *,
    limit: int | None = None,
    nameless_too: bool = False,
    known: Collection[str] = (),
    plain: bool = False,
) -> StreamedFiles:
    """Return the image files of a stream in groups, in its order, each once.

    Args:
        read: begins the stream, tables of FILES; called a second time where a file is in it twice.
        roots: folders; what is below none of them is not part of the input.
        root: that keys are relative to.
        nameless_too: files without an extension are images, too.
        known: addresses of an earlier plan, which are excluded.
        plain: nothing but image files is wanted.

    Raises:
        NotPlain: with `plain`, at the first tar or Parquet file.
    """

    def plan(twice: frozenset[int], hashes: Repeats | None) -> StreamedFiles:
        found, seen = StreamedFiles(), set[str]()

        def images() -> Iterator[pa.Table]:
            for table in read():
                chosen = _images(table, roots, nameless_too, found)
                if plain and found.others:
                    raise NotPlain
                chosen = _new_ones(chosen, twice, seen, known, found, hashes)
                found.images += chosen.num_rows
                yield chosen

        found.groups = list(cut_groups(images(), root, images_per_group, limit))
        return found

    with Repeats() as hashes:
        found = plan(frozenset(), hashes)
        twice = hashes.find()
    return plan(twice, None) if twice else found


class NotPlain(Exception):
    """The files are of several kinds."""


def _images(table: pa.Table, roots: Sequence[str], nameless_too: bool, found: StreamedFiles) -> pa.Table:
    """Return the image files among them; the others are counted."""
    kinds = np.zeros(table.num_rows, np.int8)
    for folder in roots:
        prefix = folder if folder.endswith("/") else folder + "/"
        below = pc.starts_with(table["uri"], prefix).to_numpy() & (kinds == _UNJUDGED)
        rows = np.flatnonzero(below)
        names = pc.utf8_slice_codeunits(table["uri"].take(pa.array(rows)), len(prefix))
        plain = pc.match_substring_regex(names, _PLAIN).to_numpy()
        kinds[rows[plain]] = _IMAGE
        unsure = np.flatnonzero(~plain)
        for row, name in zip(rows[unsure], names.take(pa.array(unsure)).to_pylist(), strict=True):
            kinds[row] = _judge(table, int(row), name, nameless_too, found)
    return table if bool((kinds == _IMAGE).all()) else table.filter(pa.array(kinds == _IMAGE))


def _judge(table: pa.Table, row: int, name: str, nameless_too: bool, found: StreamedFiles) -> int:
    uri = table["uri"][row].as_py()
    if is_hidden(name):
        found.beside[skipped.HIDDEN] += 1
        return _NO_IMAGE
    kind = kind_of(uri)
    if kind == "images":
        return _IMAGE
    if kind is not None or is_compressed_tar(uri):
        found.others.append(_info(table, row))
        return _NO_IMAGE
    if not has_extension(uri):
        if nameless_too:
            return _IMAGE
        if len(found.nameless) <= MOST:
            found.nameless.append(_info(table, row))
    skipped.count(found.beside, uri)
    return _NO_IMAGE


def _info(table: pa.Table, row: int) -> ObjectInfo:
    return ObjectInfo(*(table[name][row].as_py() for name in FILES.names))


def _new_ones(
    files: pa.Table,
    twice: frozenset[int],
    seen: set[str],
    known: Collection[str],
    found: StreamedFiles,
    hashes: Repeats | None,
) -> pa.Table:
    """Those that are neither known nor were seen before.

    Args:
        twice: hashes of the addresses that may stand in the stream twice, from the first pass.
        hashes: takes those of the first pass.
    """
    uris = files["uri"].to_pylist()
    of_uris = list(map(hash, uris))
    if hashes is not None:
        hashes.add(np.array(of_uris, np.int64))
    if not known and twice.isdisjoint(of_uris):
        return files
    keep = []
    for row, (uri, value) in enumerate(zip(uris, of_uris, strict=True)):
        if uri in known or uri in seen:
            found.known += uri in known
            continue
        if value in twice:
            seen.add(uri)
        keep.append(row)
    return files.take(pa.array(keep, pa.int64()))
