"""Bodies of web servers' answers: streamed where the length is known, else read to their end first."""

from __future__ import annotations

import contextlib
import tempfile
from http.client import HTTPException
from typing import Any

from urllib3.exceptions import HTTPError

from labeler.errors import StorageError
from labeler.storage.failures import Transient
from labeler.storage.redaction import redact
from labeler.storage.uris import one_line

_FAILURES = (HTTPError, HTTPException, OSError)
_PIECE_BYTES = 1 << 20
_IN_MEMORY_BYTES = 64 << 20  # of a body without a length; more of it goes to a temporary file
MAX_WITHOUT_LENGTH = 4 << 30  # bytes; a longer one may have no end


class Streamed:
    """A response of known length.

    Args:
        skip: bytes to read and drop first, because the server sends everything whatever is asked for.
    """

    def __init__(self, response: Any, size: int, etag: str | None, *, skip: int = 0, is_whole: bool = False) -> None:
        self._response, self._skip = response, skip
        self.size, self.etag, self.is_whole = size, etag, is_whole

    def read(self, n: int) -> bytes:
        while self._skip > 0:
            dropped = _read(self._response, min(self._skip, _PIECE_BYTES))
            if not dropped:
                return b""
            self._skip -= len(dropped)
        return _read(self._response, n)

    def close(self) -> None:
        with contextlib.suppress(*_FAILURES):
            self._response.close()  # before its end: the connection, too


class Whole:
    """A response that has no length, or one of its coded bytes: read and decoded to its end."""

    is_whole = False  # all of it is here

    def __init__(self, uri: str, response: Any, start: int, etag: str | None) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - closed by close()
        self.etag, self.size = etag, 0
        try:
            while piece := _read(response, _PIECE_BYTES, decode=True):
                self.size += self._file.write(piece)
                if self.size > MAX_WITHOUT_LENGTH:
                    raise StorageError(
                        f"{redact(uri)}: the server does not say how long it is (no Content-Length), and it is longer "
                        f"than {MAX_WITHOUT_LENGTH} bytes; download it first"
                    )
            self._file.seek(start)
        except BaseException:
            self._file.close()
            raise
        finally:
            response.close()

    def read(self, n: int) -> bytes:
        return self._file.read(n)

    def close(self) -> None:
        self._file.close()


def _read(response: Any, n: int, *, decode: bool = False) -> bytes:
    try:
        data: bytes = response.read(n, decode_content=decode)
    except _FAILURES as error:
        raise Transient(one_line(error)) from error
    return data
