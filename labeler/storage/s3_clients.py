"""boto3's clients: one per process and environment, with checksums only where S3 requires them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from labeler.errors import StorageError
from labeler.storage.s3_failures import has_expired
from labeler.storage.s3_pages import EVENT, take_contents
from labeler.storage.uris import one_line

SETTINGS = Config(
    retries={"mode": "standard", "total_max_attempts": 3},  # those of retries.py resume bodies and last longer
    max_pool_connections=64,
    connect_timeout=10,
    read_timeout=60,
    user_agent_extra="labeler",
)
# Over TLS, boto3 sends its default checksums behind the body, in the aws-chunked coding. Some S3-compatible stores keep
# the coding's frames as part of the object, others answer 501.
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
_ENVIRONMENT = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE",
                "AWS_SHARED_CREDENTIALS_FILE", *(f"AWS_{name.upper()}" for name in _CHECKSUMS))  # fmt: skip
YOUNG_S = 1.0  # a client made so recently has read the credentials that there are

_lock = threading.Lock()
clients: dict[tuple[object, bool], tuple[Any, float]] = {}  # (client, when it was made)


def _renew_lock() -> None:
    global _lock  # a fork may have copied it locked
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def client(*, unsigned: bool = False) -> Any:
    """This process's client; clients are thread-safe but do not survive a fork, and follow a changed environment."""
    here = (os.getpid(), *(os.environ.get(name) for name in _ENVIRONMENT))
    key = (here, unsigned)
    with _lock:
        if key not in clients:
            for old in [old for old in clients if old[0] != here]:
                del clients[old]
            clients[key] = _new_client(unsigned), time.monotonic()
        return clients[key][0]


def _new_client(unsigned: bool) -> Any:
    session = botocore.session.get_session()
    profile = session.get_scoped_config()
    own: dict[str, Any] = {"signature_version": UNSIGNED} if unsigned else {}
    own |= {
        name: "when_required" for name in _CHECKSUMS if f"AWS_{name.upper()}" not in os.environ and name not in profile
    }
    try:
        made = boto3.session.Session(botocore_session=session).client("s3", config=SETTINGS.merge(Config(**own)))
    except ValueError as error:  # an endpoint that is not a URL
        raise StorageError(f"s3: {one_line(error)}; check AWS_ENDPOINT_URL") from error
    made.meta.events.register_first("needs-retry.s3.HeadBucket", _stop_circle)
    made.meta.events.register_first(EVENT, take_contents)
    return made


def _stop_circle(response: tuple[Any, Mapping[str, Any]] | None, **event: Any) -> None:
    """End botocore's question for the region of a bucket when the answer is one more redirect, without the region.

    It would ask again for each answer, until Python's stack is full.
    """
    answer = response[1].get("ResponseMetadata", {}) if response else {}
    if answer.get("HTTPStatusCode") in (301, 302, 307) and "x-amz-bucket-region" not in answer.get("HTTPHeaders", {}):
        raise ClientError(dict(response[1]) if response else {}, "HeadBucket")


def drop_expired(error: BaseException) -> None:
    """After credentials that ran out, the next request reads them again."""
    if has_expired(error):
        with _lock:
            for key, (_, made) in list(clients.items()):
                if time.monotonic() - made > YOUNG_S:  # many threads see the same expiry; one new client is enough
                    del clients[key]
