"""s3:// through boto3: endpoint, region and credentials as boto3 takes them; conditional writes by If-None-Match."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from labeler.ahead import Fetch, in_order
from labeler.errors import InputChanged, StorageError
from labeler.storage.failures import INVALID, Transient, Unconditional, Unreadable
from labeler.storage.objects import Body, ObjectInfo, OnSkipped, Store, bare_etag
from labeler.storage.redaction import redact
from labeler.storage.retries import Patience, retrying
from labeler.storage.s3_access import access_to
from labeler.storage.s3_clients import client, drop_expired
from labeler.storage.s3_failures import code_of, explain
from labeler.storage.uris import one_line

T = TypeVar("T")
_FAILURES = (BotoCoreError, ClientError, HTTPError, OSError)  # a broken body shows urllib3's and the socket's own
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def _explain(uri: str, error: BaseException) -> Exception:
    """As `explain`; after credentials that ran out, the next request reads them again."""
    drop_expired(error)
    return explain(uri, error)


class S3Store(Store):
    """Buckets of S3, or of anything that speaks its protocol."""

    reopen_gap = 1 << 20

    def list_objects(
        self, uri_prefix: str, *, recursive: bool, on_skipped: OnSkipped | None = None
    ) -> Iterator[ObjectInfo]:
        return self._list(uri_prefix, "", recursive=recursive)

    def list_split(self, uri_prefix: str, beginnings: Sequence[str]) -> Iterator[ObjectInfo]:
        jobs: Iterator[Fetch[list[ObjectInfo]] | list[ObjectInfo]] = (
            Fetch(0, partial(self._list_whole, uri_prefix, beginning)) for beginning in beginnings
        )
        for found in in_order(jobs):
            yield from found

    def _list_whole(self, uri_prefix: str, beginning: str) -> list[ObjectInfo]:
        return list(self._list(uri_prefix, beginning, recursive=True))

    def _list(self, uri_prefix: str, beginning: str, *, recursive: bool) -> Iterator[ObjectInfo]:
        """Yield the objects of a folder whose paths there start with `beginning`."""
        scheme, bucket, key = _split(uri_prefix)
        folder = key.rstrip("/") + "/" if key.rstrip("/") else ""
        request = {
            "Bucket": bucket,
            "Prefix": folder + beginning,
            **({} if recursive else {"Delimiter": "/"}),
            **_payer(bucket, key),
        }

        def ask(where: dict[str, str]) -> Mapping[str, Any]:
            page: Mapping[str, Any] = _reader(bucket, key).list_objects_v2(**request, **where)
            return page

        for page in contents_of(uri_prefix, lambda where: _explained(uri_prefix, lambda: ask(where))):
            for found in page:
                if not found["Key"].endswith("/"):  # a console's placeholder for a folder
                    uri = f"{scheme}://{bucket}/{found['Key']}"
                    yield _info(uri, found["Size"], found)

    def head(self, uri: str) -> ObjectInfo | None:
        _, bucket, key = _split(uri)
        if not key or key.endswith("/"):
            return None
        try:
            found = _reader(bucket, key).head_object(Bucket=bucket, Key=key, **_payer(bucket, key))
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchKey", "NotFound"):
                return None
            raise _explain(uri, error) from error
        except _FAILURES as error:
            raise _explain(uri, error) from error
        return _info(uri, found["ContentLength"], found)

    def open_body(self, uri: str, start: int, length: int | None, etag: str | None) -> Body:
        _, bucket, key = _object(uri)
        request: dict[str, Any] = {"Bucket": bucket, "Key": key, **_payer(bucket, key)}
        if start or length is not None:
            request["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        if etag is not None:
            request["IfMatch"] = f'"{etag}"'
        try:
            return _S3Body(_reader(bucket, key).get_object(**request), start)
        except ClientError as error:
            if code_of(error) in ("PreconditionFailed", "412"):
                raise InputChanged(
                    f"{redact(uri)} changed: its ETag is no longer {etag}; restore it, or label it in another run"
                ) from error
            if code_of(error) in ("InvalidRange", "416"):
                return self._nothing_after(uri, start)
            raise _explain(uri, error) from error
        except _FAILURES as error:
            raise _explain(uri, error) from error

    def _nothing_after(self, uri: str, start: int) -> Body:
        found = self.head(uri)
        if found is None or found.size != start:
            raise InputChanged(
                f"{redact(uri)} ends before byte {start}: it was replaced; restore it, or label it in another run"
            )
        return _EmptyBody(found)

    def put(self, uri: str, data: bytes) -> None:
        _, bucket, key = _object(uri)
        retrying(uri, lambda: _explained(uri, lambda: client().put_object(Bucket=bucket, Key=key, Body=data)))

    def put_if_absent(self, uri: str, data: bytes, *, single_writer: bool) -> bool:
        _, bucket, key = _object(uri)

        def attempt() -> bool:
            try:
                client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) in ("PreconditionFailed", "412"):
                    return False
                if code_of(error) not in ("NotImplemented", "501"):
                    raise _explain(uri, error) from error
                if not single_writer:
                    raise Unconditional(
                        f"{redact(uri)}: this storage has no put-if-absent (If-None-Match): {one_line(error)}; "
                        "set output.single_writer=true if only one job writes there"
                    ) from error
                self.put(uri, data)
            except _FAILURES as error:
                raise _explain(uri, error) from error
            return True

        return retrying(uri, attempt)

    def put_file(self, uri: str, local_path: str | os.PathLike[str]) -> None:
        _, bucket, key = _object(uri)
        if not os.path.isfile(local_path):
            raise StorageError(f"{redact(uri)} cannot be written: there is no file {local_path}")
        parts = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, max_concurrency=4)
        retrying(
            uri,
            lambda: _explained(uri, lambda: client().upload_file(os.fspath(local_path), bucket, key, Config=parts)),
        )

    def delete(self, uri: str) -> None:
        _, bucket, key = _object(uri)
        retrying(uri, lambda: _explained(uri, lambda: client().delete_object(Bucket=bucket, Key=key)))


class _S3Body:
    is_whole = False

    def __init__(self, response: dict[str, Any], start: int) -> None:
        self._body = response["Body"]
        in_range = _RANGE.fullmatch(response.get("ContentRange") or "")
        if (int(in_range[1]) if in_range else 0) != start:
            self._body.close()
            raise Transient(f"asked for bytes from {start} on, storage sent {response.get('ContentRange') or 'all'}")
        self.size = int(in_range[2]) if in_range else int(response["ContentLength"])
        self.etag = bare_etag(response.get("ETag"))

    def read(self, n: int) -> bytes:
        try:
            data: bytes = self._body.read(n)
        except _FAILURES as error:
            raise Transient(one_line(error)) from error
        return data

    def close(self) -> None:
        self._body.close()


class _EmptyBody(io.BytesIO):
    is_whole = False

    def __init__(self, found: ObjectInfo) -> None:
        super().__init__(b"")
        self.size, self.etag = found.size, found.etag


def _reader(bucket: str, key: str) -> Any:
    """Return the client for reading there, signed or not."""
    return client(unsigned=access_to(bucket, key).unsigned)


def _payer(bucket: str, key: str) -> dict[str, str]:
    return {"RequestPayer": "requester"} if access_to(bucket, key).requester_pays else {}


def _explained(uri: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except _FAILURES as error:
        raise _explain(uri, error) from error
    except Boto3Error as error:  # uploads wrap what went wrong in a message
        cause = error.__context__ if isinstance(error.__context__, _FAILURES) else None
        raise (_explain(uri, cause) if cause else Transient(one_line(error))) from error


def _info(uri: str, size: int, found: Mapping[str, Any]) -> ObjectInfo:
    written: datetime | None = found.get("LastModified")
    return ObjectInfo(uri, size, bare_etag(found.get("ETag")), None if written is None else written.timestamp())


def _split(uri: str) -> tuple[str, str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if "@" in bucket:  # boto3 would repeat it in its message
        raise Unreadable(f"{redact(uri)}: credentials do not belong in an s3:// address; set AWS_PROFILE", INVALID)
    return scheme, bucket, key


def _object(uri: str) -> tuple[str, str, str]:
    scheme, bucket, key = _split(uri)
    if not bucket or not key:
        raise Unreadable(f"{redact(uri)} names no object; write s3://bucket/key", INVALID)
    return scheme, bucket, key


Page = Mapping[str, Any]
_MARKS = ("Name", "KeyCount", "MaxKeys", "IsTruncated")  # every listing has one of them


def contents_of(uri: str, ask: Callable[[dict[str, str]], Page]) -> Iterator[list[dict[str, Any]]]:
    """Yield the objects of each page of a listing, in the order of the store.

    Args:
        ask: gets the page of a ContinuationToken, or the one StartAfter a key, or the first page ({}).
            May raise Transient.

    Raises:
        StorageError: if the store does not answer, or its listing has no end.
    """
    patience, where, seen = Patience(uri), dict[str, str](), set[str]()
    while True:
        try:
            page = ask(where)
            if not any(mark in page for mark in _MARKS):
                raise Transient("the answer is not the listing of a bucket")
        except Transient as error:
            patience.wait(error)
            continue
        patience.reset()
        found = list(page.get("Contents", []))
        after = where.get("StartAfter")
        yield found if after is None else [each for each in found if each["Key"] > after]
        if not page.get("IsTruncated"):
            return
        where = _next(uri, page, where, seen)


def _next(uri: str, page: Page, where: Mapping[str, str], seen: set[str]) -> dict[str, str]:
    """Return where the page after `page` is; by the last key where the store gives no token."""
    if token := page.get("NextContinuationToken"):
        if token in seen:
            raise StorageError(f"{redact(uri)}: the listing has no end: the store repeats its continuation token")
        seen.add(token)
        return {"ContinuationToken": token}
    keys = [each["Key"] for each in page.get("Contents", [])]
    last = max([*keys, *(each["Prefix"] for each in page.get("CommonPrefixes", []))], default="")
    if last <= where.get("StartAfter", ""):
        raise StorageError(f"{redact(uri)}: the listing has no end: the store does not say where its rest is")
    return {"StartAfter": last}
