"""Walk a tar's headers in a stream: where each file's bytes lie, and where the archive is broken."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from labeler.digests import digest_of
from labeler.storage import ByteStream

BLOCK = 512
_MAX_EXTENSION_BYTES = 8 << 20  # of one PAX or GNU header record; real ones have a few hundred bytes
_MAX_NAME_BYTES = 4096  # a path of Linux; of longer ones a digest stands for the middle
_MAX_DIGITS = 19  # of a size in a PAX header: 2^63
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_WITHOUT_BODY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


@dataclass(frozen=True)
class TarMember:
    """A regular file in a tar, or the place where the tar ends badly.

    Attributes:
        name: as it is in the archive, however it looks: it is data and never a path here. Bytes that are not UTF-8
            as \\xNN; names beyond 4096 bytes with a digest for their middle; an empty one is the offset.
        offset, length: of the body in the archive.
        state: "sparse" bodies are not the file's bytes; after "truncated" or "corrupt" nothing follows.
    """

    name: str
    offset: int
    length: int
    state: Literal["file", "sparse", "truncated", "corrupt"] = "file"


class _Corrupt(Exception):
    pass


class _Truncated(Exception):
    pass


@dataclass
class _Extensions:
    """Fields of extended headers, about the member after them."""

    name: str | None = None
    length: int | None = None
    is_sparse: bool = False


def walk(stream: ByteStream) -> Iterator[TarMember]:
    """Yield every regular file, in order. The stream is then at the file's body, which may be read or left.

    Zero blocks end an archive, but another may follow (`cat a.tar b.tar`), so they are skipped: the walk ends where the
    stream does. Links, devices and folders are skipped. Format: POSIX.1-2001 ustar and pax, GNU long names, v7.
    """
    extensions = _Extensions()
    while True:
        start = stream.tell()
        try:
            block = stream.read(BLOCK)
            if not any(block):  # an end-of-archive block, or no more bytes
                if extensions != _Extensions():
                    raise _Truncated
                if len(block) < BLOCK:
                    return
                continue
            if len(block) < BLOCK:
                raise _Truncated
            header = _parse(block)
            if _read_extension(header, stream, extensions):
                continue
            is_sparse = _pass_sparse_map(header, block, stream) or extensions.is_sparse
        except (_Corrupt, _Truncated) as error:
            state: Literal["corrupt", "truncated"] = "corrupt" if isinstance(error, _Corrupt) else "truncated"
            yield TarMember(extensions.name or f"<offset {start}>", start, 0, state)
            return
        name = extensions.name if extensions.name is not None else _text(header.name.encode("utf-8", "surrogateescape"))
        length = header.size if extensions.length is None else extensions.length
        extensions = _Extensions()
        if header.type in _WITHOUT_BODY:
            continue
        offset = stream.tell()
        if offset + length > stream.size:
            yield TarMember(name, offset, length, "truncated")
            return
        yield TarMember(name or f"<offset {offset}>", offset, length, "sparse" if is_sparse else "file")
        stream.skip(offset + _padded(length) - stream.tell())


def _parse(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise _Corrupt from error
    if header.size < 0:
        raise _Corrupt
    return header


def _read_extension(header: tarfile.TarInfo, stream: ByteStream, extensions: _Extensions) -> bool:
    """True when the header describes a later one; its body is read and noted."""
    kind = header.type
    if kind not in (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        return False
    if header.size > _MAX_EXTENSION_BYTES:
        raise _Corrupt
    body = stream.read(header.size)
    if len(body) < header.size:
        raise _Truncated
    stream.skip(_padded(header.size) - header.size)
    if kind == tarfile.GNUTYPE_LONGNAME:
        extensions.name = _text(body.split(b"\0", 1)[0])
    elif kind in _PAX:
        _note_pax(body, extensions)
    return True


def _note_pax(body: bytes, extensions: _Extensions) -> None:
    records = _pax_records(body)
    if b"path" in records:
        extensions.name = _text(records[b"path"])
    if b"size" in records:
        if not records[b"size"].isdigit() or len(records[b"size"]) > _MAX_DIGITS:
            raise _Corrupt
        extensions.length = int(records[b"size"])
    if any(key.startswith(b"GNU.sparse.") for key in records):
        extensions.is_sparse = True
        if b"GNU.sparse.name" in records:
            extensions.name = _text(records[b"GNU.sparse.name"])


def _pax_records(body: bytes) -> dict[bytes, bytes]:
    """Records of the form "<length> <key>=<value>\\n", the length counting the whole record."""
    records = {}
    at = 0
    while at < len(body) and body[at] != 0:
        space = body.find(b" ", at, at + 20)
        digits = body[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        if not space < end <= len(body) or body[end - 1 : end] != b"\n":
            raise _Corrupt
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise _Corrupt
        records[key] = value
        at = end
    return records


def _pass_sparse_map(header: tarfile.TarInfo, block: bytes, stream: ByteStream) -> bool:
    """Old GNU sparse files have further blocks of map between header and body."""
    if header.type != tarfile.GNUTYPE_SPARSE:
        return False
    more = block[482]
    while more:
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise _Truncated
        more = block[504]
    return True


def _text(name: bytes) -> str:
    """Return keys of millions of characters would fill memory, one for each image, and every row that carries one."""
    if len(name) > _MAX_NAME_BYTES:
        digest = digest_of(name).encode()
        name = name[:1024] + b"..." + digest + b"..." + name[-256:]
    return name.decode("utf-8", "backslashreplace")


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
