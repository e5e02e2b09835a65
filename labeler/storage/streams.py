"""A stream of one object's bytes that survives broken connections: it resumes where it stopped, on the same version."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from labeler.errors import InputChanged
from labeler.storage.failures import Transient
from labeler.storage.objects import Body
from labeler.storage.redaction import redact
from labeler.storage.retries import METER, Patience

OpenBody = Callable[[int, int | None, str | None], Body]  # (start, length, etag)

_PIECE_BYTES = 1 << 20  # at most this much is lost, and asked for again, when a read fails in the middle
_LOOKS = 3  # in a row at an object that seems changed: a lagging replica or a broken answer passes, a change stays
_AHEAD_BYTES = 128 << 10  # small reads (tar headers) are served from a buffer of this size


class ByteStream(AbstractContextManager["ByteStream"]):
    """Bytes [start, start + length) of one object, in order.

    The first response pins the ETag, so what is read after a reconnect belongs to the same bytes. An answer with
    another ETag or size is not used; it is believed, and InputChanged raised, when further looks say the same.

    Args:
        open_body: opens the object at an offset; may raise Transient.
        length: stop after that many bytes; None reads to the end of the object.
        size: the object's expected size in bytes, verified.
        etag: the object's expected ETag, verified.
        reopen_gap: a skip of more bytes than this opens a new body instead of reading through.
    """

    def __init__(
        self,
        uri: str,
        open_body: OpenBody,
        *,
        start: int = 0,
        length: int | None = None,
        size: int | None = None,
        etag: str | None = None,
        reopen_gap: int = 1 << 20,
    ) -> None:
        self.uri = uri
        self._open_body = open_body
        self._start = start
        self._length = length
        self._expected_size = size
        self._etag = etag
        self._reopen_gap = reopen_gap
        self._patience = Patience(uri)
        self._doubts = 0
        self._body: Body | None = None
        self._size: int | None = None
        self._at = start  # where the body stands; the reader stands len(self._ahead) before it
        self._ahead = memoryview(b"")

    @property
    def size(self) -> int:
        """Bytes of the whole object; asks storage if nothing was read yet."""
        while self._size is None:
            self._attempt(lambda body: b"")
        return self._size

    @property
    def etag(self) -> str | None:
        """As given, or as the first response had it."""
        return self._etag

    def tell(self) -> int:
        """Offset in the object of the next byte."""
        return self._at - len(self._ahead)

    def read(self, n: int) -> bytes:
        """Exactly `n` bytes, or all that are left when fewer.

        Raises:
            InputChanged: the object is not the expected one, or became another while it was read.
            StorageError: it cannot be read, after retries.
        """
        if n <= len(self._ahead):
            return self._take(n)
        pieces = [self._take(len(self._ahead))]
        missing = n - len(pieces[0])
        while missing > 0:
            if missing < _AHEAD_BYTES:
                self._ahead = memoryview(self._fetch(_AHEAD_BYTES))
                piece = self._take(min(missing, len(self._ahead)))
            else:
                piece = self._fetch(min(missing, _PIECE_BYTES))
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def skip(self, n: int) -> int:
        """Skip `n` bytes, or all that are left when fewer; returns how many. Long gaps are not downloaded."""
        n = max(0, min(n, self._end() - self.tell()))
        buffered = min(n, len(self._ahead))
        self._ahead = self._ahead[buffered:]
        gap = n - buffered
        if gap > self._reopen_gap and not (self._body is not None and self._body.is_whole):
            self._drop_body()
            self._at += gap
        else:
            target = self._at + gap
            while self._at < target:
                self._fetch(min(target - self._at, _PIECE_BYTES))
        return n

    def close(self) -> None:
        self._drop_body()
        self._ahead = memoryview(b"")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, n: int) -> bytes:
        taken, self._ahead = bytes(self._ahead[:n]), self._ahead[n:]
        return taken

    def _end(self) -> int:
        if self._length is not None:
            return self._start + self._length
        if self._size is None and self._expected_size is not None:
            return self._expected_size  # verified when the object is opened
        return self.size

    def _fetch(self, n: int) -> bytes:
        """At least one and at most `n` bytes from the body; b"" only at the end."""
        left = self._end() - self._at
        if left <= 0:
            return b""
        data: bytes | None = None
        while data is None:
            data = self._attempt(lambda body: body.read(min(n, left)) or _ended_early(left))
        self._at += len(data)
        METER.add(bytes_read=len(data))
        return data

    def _attempt(self, use: Callable[[Body], bytes]) -> bytes | None:
        """Return what `use` gets from the open body; None after a failure and a pause."""
        try:
            if self._body is None:
                self._body = self._opened()
            data = use(self._body)
        except Transient as error:
            self._drop_body()
            self._patience.wait(error)
            return None
        except InputChanged:
            self._drop_body()
            self._doubts += 1
            if self._doubts >= _LOOKS:
                raise
            self._patience.wait(Transient("another ETag or size than expected"))
            return None
        self._doubts = 0
        if data:
            self._patience.reset()
        return data

    def _opened(self) -> Body:
        length = None if self._length is None else self._start + self._length - self._at
        METER.add(requests=1)
        body = self._open_body(self._at, length, self._etag)
        known = self._expected_size if self._size is None else self._size
        expected = body.size if known is None else known
        too_short = self._length is not None and body.size < self._start + self._length
        if body.size != expected or too_short:
            body.close()
            wanted = f"at least {self._start + (self._length or 0)}" if too_short else f"{expected}"
            raise InputChanged(
                f"{redact(self.uri)} has {body.size} bytes where {wanted} were expected: it was replaced; "
                "restore it, or label it in another run"
            )
        if None not in (self._etag, body.etag) and body.etag != self._etag:  # not all storage honors If-Match
            body.close()
            raise InputChanged(
                f"{redact(self.uri)} changed: its ETag was {self._etag}, now it is {body.etag}; "
                "restore it, or label it in another run"
            )
        self._size = body.size
        self._etag = self._etag or body.etag
        return body

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


def _ended_early(left: int) -> bytes:
    raise Transient(f"the connection ended {left} bytes early")
