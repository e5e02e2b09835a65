"""Read images out of a WebDataset tar as it streams by, with the sidecars that share their key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from labeler import storage
from labeler.shards import kept, skipped
from labeler.shards.names import SNIFFED_BYTES, is_image, looks_like_image
from labeler.shards.tar_members import TarMember, walk
from labeler.shards.units import Item, Placed, Shard, Skip, UnitCutter, too_large
from labeler.storage import ByteStream

MAX_GROUP_BYTES = 256 << 20  # images that wait for a sidecar after them; of a larger group later sidecars are missed

_ERRORS = {"truncated": "truncated member", "corrupt": "corrupt tar header", "sparse": "sparse member"}


def read_tar(
    shard: Shard,
    cutter: UnitCutter,
    *,
    keep: Sequence[str],
    skip: Skip,
    max_image_bytes: int,
    counts: Counter[str] | None = None,
) -> Generator[Placed, None, None]:
    """Yield every image of the tar, in order. Bodies of skipped units are not kept, the long ones not downloaded.

    A member is an image by its name or, if that says nothing, by its first bytes. Bad members become items with an
    error; a truncated member or a corrupt header is the last item.

    Args:
        counts: gets the other members by extension, but those that are kept.
    """
    return _TarReader(shard, cutter, keep, skip, max_image_bytes, Counter() if counts is None else counts).read()


@dataclass
class _Group:
    """Members that share a key, next to each other: images waiting until all their sidecars are known."""

    key: str
    placed: list[Placed] = field(default_factory=list)
    sidecars: dict[str, bytes] = field(default_factory=dict)
    left_behind: dict[str, TarMember] = field(default_factory=dict)  # sidecars skipped among skipped images
    image_bytes: int = 0


class _TarReader:
    def __init__(
        self,
        shard: Shard,
        cutter: UnitCutter,
        keep: Sequence[str],
        skip: Skip,
        max_image_bytes: int,
        counts: Counter[str],
    ) -> None:
        self._shard = shard
        self._cutter = cutter
        self._keep = tuple(keep)
        self._wanted = kept.extensions(keep)
        self._skip = skip
        self._max_image_bytes = max_image_bytes
        self._counts = counts
        self._names: set[str] = set()
        self._images = 0

    def read(self) -> Generator[Placed, None, None]:
        group = _Group("")
        with storage.open_stream(self._shard.uri, size=self._shard.size, etag=self._shard.etag) as stream:
            for member in walk(stream):
                key, extension = split_key(member.name)
                if member.state in ("truncated", "corrupt"):
                    yield from self._flush(group, stream)
                    yield self._place(member, stream)
                    return
                if key != group.key:
                    yield from self._flush(group, stream)
                    group = _Group(key)
                if is_image(member.name):
                    group.placed.append(self._place(member, stream))
                    group.image_bytes += member.length
                elif extension in self._wanted and member.length <= kept.MAX_BYTES:
                    self._note_sidecar(group, extension, member, stream)
                elif looks_like_image(head := self._head(member, stream)):
                    group.placed.append(self._place(member, stream, head))
                    group.image_bytes += member.length
                else:
                    skipped.count(self._counts, member.name)
                if not self._wanted or group.image_bytes > MAX_GROUP_BYTES:
                    yield from self._flush(group, stream)
            yield from self._flush(group, stream)

    def _head(self, member: TarMember, stream: ByteStream) -> bytes:
        """Return the first bytes of a member whose name does not make it an image; b"" of macOS's companion files."""
        if member.state != "file" or member.name.rpartition("/")[2].startswith("._"):
            return b""
        return stream.read(min(SNIFFED_BYTES, member.length))

    def _place(self, member: TarMember, stream: ByteStream, head: bytes = b"") -> Placed:
        """Return the image in its unit; `head` is what was read of it already."""
        unit = self._cutter.place(member.length)
        index = self._images
        self._images += 1
        error = self._error(member)
        self._names.add(member.name)
        if self._skip(unit):
            return Placed(unit, None)
        addressable = member.state == "file"
        item = Item(
            key=member.name,
            index=index,
            uri=self._shard.uri,
            offset=member.offset if addressable else None,
            length=member.length if addressable else None,
            data=head + stream.read(member.length - len(head)) if error is None else None,
            error=error,
            kept=dict.fromkeys(self._keep),
        )
        return Placed(unit, item)

    def _error(self, member: TarMember) -> str | None:
        if member.state != "file":
            return _ERRORS[member.state]
        if member.name in self._names:
            return "duplicate member name"
        if member.length > self._max_image_bytes:
            return too_large(member.length, self._max_image_bytes)
        return None

    def _note_sidecar(self, group: _Group, extension: str, member: TarMember, stream: ByteStream) -> None:
        if extension in group.sidecars or extension in group.left_behind:
            return  # the first of two wins
        needed = any(placed.item for placed in group.placed)
        if needed or not all(map(self._skip, self._cutter.next_units)):
            group.sidecars[extension] = stream.read(member.length)
        else:
            group.left_behind[extension] = member

    def _flush(self, group: _Group, stream: ByteStream) -> Iterator[Placed]:
        """Yield the group's images with what is kept; the group is empty of images afterwards."""
        placed, group.placed, group.image_bytes = group.placed, [], 0
        if self._wanted and any(each.item for each in placed):
            for extension, member in group.left_behind.items():
                group.sidecars[extension] = storage.read_bytes(
                    self._shard.uri, start=member.offset, length=member.length, etag=stream.etag
                )
            group.left_behind.clear()
            values = kept.from_sidecars(self._keep, group.sidecars)
            placed = [Placed(unit, replace(item, kept=values) if item else None) for unit, item in placed]
        yield from placed


def split_key(name: str) -> tuple[str, str]:
    """Return ("a/b", "0.jpg") for "a/b.0.jpg": WebDataset's key ends at the first dot of the file name."""
    folder, slash, file_name = name.rpartition("/")
    stem, _, extension = file_name.partition(".")
    return folder + slash + stem, extension.lower()
